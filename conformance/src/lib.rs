//! One suite that every backend of zloop passes.
//!
//! | file | what it holds |
//! |---|---|
//! | [`clause`] | the clauses of the contract, by number |
//! | [`cases`] | plain functions over a [`Rig`], each for one clause |
//! | [`rig`] | a backend, what was asked of it, and checks that hold in every case |
//! | [`world`] | what is around a backend: [`os`], or the world of `sim` |
//! | [`subject`] | what can be tested, and whether this machine has it |
//! | [`mutant`] | a backend that breaks one clause, to see that the suite would notice |
//! | [`runner`] | runs cases and tells what became of them |

pub mod cases;
pub mod clause;
pub mod mutant;
pub mod os;
pub mod rig;
pub mod runner;
pub mod subject;
pub mod world;

pub use cases::{CASES, Case};
pub use clause::Clause;
pub use mutant::{Fault, Mutant};
pub use rig::Rig;
pub use runner::run;
pub use subject::Subject;
pub use world::World;

//! One suite of cases that every backend passes.

//! What can be tested.

#![forbid(unsafe_code)]

use std::fmt;

use zloop_backends::sim::Sim;
use zloop_backends::{Backend, Kind, Unavailable, open};

use crate::mutant::{Fault, Mutant};
use crate::os::Os;
use crate::world::World;

/// A backend together with its world.
pub type Opened = (Box<dyn Backend + Send>, Box<dyn World>);

/// Something to test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A backend of the registry, in the real world.
    Real(Kind),
    /// The backend in memory, with a seed.
    Sim(u64),
    /// The backend in memory, with a seed and a fault.
    Faulty(u64, Fault),
}

impl Subject {
    /// Opens it.
    ///
    /// # Errors
    /// Why this machine cannot.
    pub fn open(self) -> Result<Opened, Unavailable> {
        match self {
            Self::Real(kind) => {
                let backend = open(kind)?;
                Ok((Box::new(backend), Box::new(Os::new())))
            }
            Self::Sim(seed) => {
                let sim = Sim::new(seed).expect("an fd for the waker");
                let world = sim.world();
                Ok((Box::new(sim), Box::new(world)))
            }
            Self::Faulty(seed, fault) => {
                let sim = Sim::new(seed).expect("an fd for the waker");
                let world = sim.world();
                Ok((Box::new(Mutant::new(sim, world.clone(), fault)), Box::new(world)))
            }
        }
    }

    /// The subject of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        if name == "sim" { Some(Self::Sim(1)) } else { Kind::from_name(name).map(Self::Real) }
    }

    /// Whether `ZLOOP_REQUIRE`, a list of names separated by commas, says that it must be there.
    #[must_use]
    pub fn is_required(self) -> bool {
        let required = std::env::var("ZLOOP_REQUIRE").unwrap_or_default();
        required.split(',').any(|name| name.trim() == self.to_string())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Real(kind) => f.pad(kind.name()),
            Self::Sim(_) => f.pad("sim"),
            Self::Faulty(_, fault) => f.pad(&format!("sim with {fault:?}")),
        }
    }
}

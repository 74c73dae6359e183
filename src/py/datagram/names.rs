//! The addresses that an endpoint has heard from lately, in both spellings: a peer is answered by the tuple that came with
//! its datagram, and so neither is made or read anew each time.
#![forbid(unsafe_code)]

use pyo3::prelude::*;
use zloop_backends::SockAddr;

/// How many peers are remembered: a power of two.
const ROOM: usize = 16;

/// A small cache. Two peers whose addresses fall on the same place take turns in it.
#[derive(Default)]
pub struct Names {
    places: [Option<(SockAddr, Py<PyAny>)>; ROOM],
}

impl Names {
    /// How Python shows an address of the kernel's.
    #[inline]
    pub fn python_address<'py>(&self, py: Python<'py>, kernel: &SockAddr) -> Option<Bound<'py, PyAny>> {
        let (known, name) = self.places[place(kernel)].as_ref()?;
        (known.as_bytes() == kernel.as_bytes()).then(|| name.bind(py).clone())
    }

    /// What the kernel calls an address that was shown: this very object, since others need reading.
    #[inline]
    pub fn kernel_address(&self, name: &Bound<'_, PyAny>) -> Option<SockAddr> {
        self.places.iter().flatten().find(|(_, known)| known.is(name)).map(|(kernel, _)| *kernel)
    }

    /// Remembers a pair and returns what had its place, to be dropped where that is safe.
    pub fn remember(&mut self, kernel: SockAddr, name: Py<PyAny>) -> Option<(SockAddr, Py<PyAny>)> {
        self.places[place(&kernel)].replace((kernel, name))
    }
}

/// Ports tell peers on one host apart, the rest tells hosts apart.
fn place(address: &SockAddr) -> usize {
    address.as_bytes().iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte))) % ROOM
}

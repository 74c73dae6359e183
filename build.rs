//! Tells the crate which interpreter it is compiled for (`cfg(Py_GIL_DISABLED)` and friends).

fn main() {
    #[cfg(feature = "python")]
    pyo3_build_config::use_pyo3_cfgs();
}

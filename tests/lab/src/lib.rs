//! The tests are in `lab/`.

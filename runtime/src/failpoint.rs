//! Named places outside of the transaction loop at which tests stop, kill or delay a process.

/// Passes such a place. Does nothing, except in tests that were built with fail points.
pub fn pass(name: &str) {
    fail::fail_point!(name);
    // The name is used by fail points only.
    let _ = name;
}

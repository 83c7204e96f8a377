//! Places of the transaction loop at which a test holds an instance.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use crate::wait::wait_until;

/// A place at which an instance is held. Lets go when it is dropped, so that a test that fails does not hang.
pub struct Hold {
    slow: Arc<AtomicBool>,
    armed: Arc<AtomicBool>,
    reached: Arc<AtomicBool>,
    point: String,
}

impl Hold {
    /// Does not hold yet. Fail points are global: one place has one holder.
    ///
    /// # Panics
    /// There is no fail point scenario.
    #[must_use]
    pub fn new(point: &str) -> Self {
        let [slow, armed, reached] = [(); 3].map(|()| Arc::new(AtomicBool::new(false)));
        let (slows, holds, says) = (Arc::clone(&slow), Arc::clone(&armed), Arc::clone(&reached));
        let hold = move || {
            if slows.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(150));
            }
            while holds.load(SeqCst) {
                says.store(true, SeqCst);
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        #[expect(clippy::expect_used, reason = "a test without its fail point proves nothing")]
        fail::cfg_callback(point, hold).expect("a fail point");
        Self { slow, armed, reached, point: point.to_owned() }
    }

    /// From now on the instance passes slowly, until it is released: so there is always something left to do.
    pub fn slow_down(&self) {
        self.slow.store(true, SeqCst);
    }

    /// Holds whoever comes by from now on.
    pub fn arm(&self) {
        self.armed.store(true, SeqCst);
    }

    /// Waits until somebody is held.
    ///
    /// # Panics
    /// Nobody is within a minute.
    pub fn await_reached(&self) {
        wait_until(&self.point, || self.reached.load(SeqCst));
    }

    /// Lets go.
    pub fn release(&self) {
        self.slow.store(false, SeqCst);
        self.armed.store(false, SeqCst);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release();
    }
}

//! Ctrl-C and SIGTERM: the first one asks to stop at the next safe point, the second one ends the process at once.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use crate::exit::{Interrupted, signal_name};
use crate::output;

/// How often ranks exchange requests to stop.
const SHARE_INTERVAL: Duration = Duration::from_millis(500);

/// The request to stop, shared with the loops that poll it.
#[derive(Default)]
pub struct Stop {
    requested: Arc<AtomicBool>,
    /// Whether the next signal ends the process.
    impatient: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Stop {
    /// Starts listening. The first SIGINT or SIGTERM no longer ends the process; a line on standard error says so.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn listen() -> io::Result<Self> {
        let stop = Self::quietly()?;
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        std::thread::spawn(move || {
            if let Some(number) = signals.forever().next() {
                let name = signal_name(number);
                // On a terminal the cursor is behind a progress bar and an echoed ^C.
                let start = if io::stderr().is_terminal() { "\n" } else { "" };
                output::status(&format!(
                    "{start}{name}: stopping at the next safe point; a second signal ends the process at once"
                ));
            }
        });
        Ok(stop)
    }

    /// As [`Stop::listen`], without the line: for work whose next safe point is milliseconds away.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn quietly() -> io::Result<Self> {
        let stop = Self::default();
        for number in [SIGINT, SIGTERM] {
            // The order matters: the second signal finds the flag set and ends the process.
            flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&stop.impatient))?;
            flag::register_usize(number, Arc::clone(&stop.signal), number.unsigned_abs() as usize)?;
            flag::register(number, Arc::clone(&stop.requested))?;
            flag::register(number, Arc::clone(&stop.impatient))?;
        }
        Ok(stop)
    }

    /// From now on the end of standard input is a request to stop, like SIGTERM. The launcher closes this pipe, and so does
    /// the system if the launcher dies.
    pub fn follow_launcher(&self) {
        let request = self.request();
        std::thread::spawn(move || {
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            request();
        });
    }

    /// From now on a request to another rank is one to this rank too. `exchange` tells the others whether this rank was asked
    /// to stop, and returns whether any rank was; `None` ends the sharing.
    pub fn share(&self, exchange: impl Fn(bool) -> Option<bool> + Send + 'static) {
        let (requested, request) = (Arc::clone(&self.requested), self.request());
        std::thread::spawn(move || {
            while let Some(any) = exchange(requested.load(Ordering::SeqCst)) {
                if any {
                    return request();
                }
                std::thread::sleep(SHARE_INTERVAL);
            }
        });
    }

    /// A request to stop that comes from no signal, after which the first signal does not yet end the process.
    fn request(&self) -> impl Fn() + Send + use<> {
        let (requested, signal) = (Arc::clone(&self.requested), Arc::clone(&self.signal));
        move || {
            let sigterm = SIGTERM.unsigned_abs() as usize;
            let _ = signal.compare_exchange(0, sigterm, Ordering::SeqCst, Ordering::SeqCst);
            requested.store(true, Ordering::SeqCst);
        }
    }

    /// Runs `wait`; meanwhile the first signal already ends the process. For waits in which no work can be lost.
    ///
    /// # Errors
    /// As [`Stop::check`], without waiting.
    pub fn at_once<T>(&self, wait: impl FnOnce() -> T) -> Result<T, Interrupted> {
        self.impatient.store(true, Ordering::SeqCst);
        // A signal may have come just before.
        self.check()?;
        let waited = wait();
        self.impatient.store(false, Ordering::SeqCst);
        Ok(waited)
    }

    /// The flag that loops poll.
    pub fn flag(&self) -> &AtomicBool {
        &self.requested
    }

    /// Fails once a signal has asked to stop.
    ///
    /// # Errors
    /// [`Interrupted`] with the signal's number.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.requested.load(Ordering::SeqCst) { Err(self.interrupted()) } else { Ok(()) }
    }

    fn interrupted(&self) -> Interrupted {
        Interrupted(i32::try_from(self.signal.load(Ordering::SeqCst)).unwrap_or(SIGINT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use signal_hook::low_level::raise;

    #[test]
    fn the_first_signal_only_asks() {
        let stop = Stop::listen().unwrap();
        stop.check().unwrap();
        assert!(stop.at_once(|| stop.impatient.load(Ordering::SeqCst)).unwrap());
        assert!(!stop.impatient.load(Ordering::SeqCst));
        stop.check().unwrap();
        raise(SIGTERM).unwrap();
        assert!(stop.flag().load(Ordering::SeqCst));
        assert_eq!(stop.check().unwrap_err().0, SIGTERM);
        assert_eq!(stop.at_once(|| unreachable!("it waits")).unwrap_err().0, SIGTERM);
    }

    #[test]
    fn a_request_to_another_rank_is_obeyed_and_own_ones_are_passed_on() {
        // Not registered: the signal of the other test reaches every handler of this process.
        let sharing = |asked: &Arc<AtomicBool>| {
            let (stop, asked) = (Stop::default(), Arc::clone(asked));
            stop.share(move |here| Some(asked.fetch_or(here, Ordering::SeqCst) || here));
            stop
        };
        let asked = Arc::new(AtomicBool::new(false));
        let stop = sharing(&asked);
        stop.check().unwrap();
        asked.store(true, Ordering::SeqCst);
        while stop.check().is_ok() {
            std::thread::yield_now();
        }
        assert_eq!(stop.check().unwrap_err().0, SIGTERM);
        assert!(!stop.impatient.load(Ordering::SeqCst), "the first signal does not end the process");

        let asked = Arc::new(AtomicBool::new(false));
        sharing(&asked).request()();
        while !asked.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
    }
}

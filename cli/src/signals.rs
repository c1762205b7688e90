//! Ctrl-C and SIGTERM: the first one asks to stop at the next safe point, the second one ends the process at once.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use crate::exit::{Interrupted, signal_name};
use crate::output;

/// The request to stop, shared with the loops that poll it.
pub struct Stop {
    requested: Arc<AtomicBool>,
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
        let stop = Self { requested: Arc::default(), signal: Arc::default() };
        for number in [SIGINT, SIGTERM] {
            // The order matters: the second signal finds the flag set and ends the process.
            flag::register_conditional_shutdown(number, 128 + number, Arc::clone(&stop.requested))?;
            flag::register_usize(number, Arc::clone(&stop.signal), number.unsigned_abs() as usize)?;
            flag::register(number, Arc::clone(&stop.requested))?;
        }
        Ok(stop)
    }

    /// From now on the end of standard input is a request to stop, like SIGTERM. The launcher closes this pipe, and so does
    /// the system if the launcher dies.
    pub fn follow_launcher(&self) {
        let (requested, signal) = (Arc::clone(&self.requested), Arc::clone(&self.signal));
        std::thread::spawn(move || {
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            signal.store(SIGTERM.unsigned_abs() as usize, Ordering::SeqCst);
            requested.store(true, Ordering::SeqCst);
        });
    }

    /// Runs `wait`; meanwhile the first signal already ends the process. For waits in which no work can be lost.
    ///
    /// # Errors
    /// As [`Stop::check`], without waiting.
    pub fn at_once<T>(&self, wait: impl FnOnce() -> T) -> Result<T, Interrupted> {
        if self.requested.swap(true, Ordering::SeqCst) {
            return Err(self.interrupted());
        }
        let waited = wait();
        self.requested.store(false, Ordering::SeqCst);
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
        assert!(stop.at_once(|| stop.flag().load(Ordering::SeqCst)).unwrap());
        stop.check().unwrap();
        raise(SIGTERM).unwrap();
        assert!(stop.flag().load(Ordering::SeqCst));
        assert_eq!(stop.check().unwrap_err().0, SIGTERM);
        assert_eq!(stop.at_once(|| unreachable!("it waits")).unwrap_err().0, SIGTERM);
    }
}

//! What ends a run from outside: no temporary file stays, and what is not written is said not to be.

#[cfg(feature = "exec")]
use std::sync::atomic::AtomicU8;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether there is a student to come, which is lost if the run ends now.
static UNWRITTEN: AtomicBool = AtomicBool::new(false);

/// What Ctrl-C does: [`END`], or [`ASK`] once.
#[cfg(feature = "exec")]
static CTRL_C: AtomicU8 = AtomicU8::new(END);

/// The run ends.
#[cfg(feature = "exec")]
const END: u8 = 0;
/// What trains is asked to end, and what was learned so far goes on.
#[cfg(feature = "exec")]
const ASK: u8 = 1;
/// It was asked.
#[cfg(feature = "exec")]
const ASKED: u8 = 2;

/// Says whether there is something that is not written yet.
pub fn unwritten(is: bool) {
    UNWRITTEN.store(is, Ordering::SeqCst);
}

/// Before and after something that may end early and has something to show for it then.
#[cfg(feature = "exec")]
pub fn training(begins: bool) {
    let (from, to) = if begins { (END, ASK) } else { (ASK, END) };
    let _ = CTRL_C.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
}

/// Whether Ctrl-C asked for that.
#[cfg(feature = "exec")]
pub fn asked() -> bool {
    CTRL_C.load(Ordering::SeqCst) == ASKED
}

pub use system::watch;

#[cfg(unix)]
mod system {
    use super::{Ordering, UNWRITTEN};
    use crate::files;
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXCPU, SIGXFSZ};
    use signal_hook::iterator::Signals;
    use signal_hook::low_level;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc::sync_channel;

    /// Signals that end a process, by name.
    const ENDING: &[(i32, &str)] = &[
        (SIGHUP, "SIGHUP"),
        (SIGINT, "Ctrl-C"),
        (SIGQUIT, "SIGQUIT"),
        (SIGTERM, "SIGTERM"),
        (SIGXCPU, "the limit of CPU time"),
    ];

    /// Looks after signals from now on, on a thread of its own. If there cannot be one, they do what they always do, and the next
    /// run to the same place cleans up.
    pub fn watch() {
        // With a handler, a file that may not grow any more is an error of its write.
        let _ = signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
        let (ready, is_ready) = sync_channel(1);
        let watcher = std::thread::Builder::new().name("signals".into()).spawn(move || {
            // What was to be ignored when the process began, as under nohup, stays ignored.
            let mut signals = Signals::new(ENDING.iter().map(|s| s.0).filter(|&s| !is_ignored(s)));
            let _ = ready.send(());
            signals.iter_mut().flat_map(Signals::forever).for_each(act);
        });
        // What was mapped and is lost needs somebody who ends the process.
        if watcher.is_ok() && is_ready.recv().is_ok() && !is_ignored(SIGTERM) {
            super::mapped::watch();
        }
    }

    fn is_ignored(signal: i32) -> bool {
        // SAFETY: all zeros are a valid `sigaction`, and without a new action the call only fills it in.
        unsafe {
            let mut now: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut now) == 0 && now.sa_sigaction == libc::SIG_IGN
        }
    }

    fn act(signal: i32) {
        #[cfg(feature = "exec")]
        if signal == SIGINT
            && super::CTRL_C.compare_exchange(super::ASK, super::ASKED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        {
            return crate::cli::say(&"interrupted: what was learned so far goes on; Ctrl-C again ends the run");
        }
        files::abandon();
        if super::mapped::is_lost() {
            crate::cli::messages::error(&super::mapped::error());
            low_level::exit(1);
        }
        if UNWRITTEN.load(Ordering::SeqCst) {
            let name = ENDING.iter().find(|s| s.0 == signal).map_or("a signal", |s| s.1);
            crate::cli::say(&format!("interrupted by {name}: nothing was written"));
        }
        // Whoever started this sees that it was the signal: a shell stops its loop, and has 128 and the signal as exit code.
        let _ = low_level::emulate_default_handler(signal);
        low_level::exit(128 + signal);
    }
}

#[cfg(not(unix))]
mod system {
    /// Ctrl-C ends what trains; for the rest there are no signals.
    pub fn watch() {
        #[cfg(feature = "exec")]
        // SAFETY: the action only changes an atomic number and ends the process, which a handler may do.
        let _ = unsafe {
            signal_hook::low_level::register(signal_hook::consts::SIGINT, || {
                let (ask, asked) = (super::ASK, super::ASKED);
                let order = super::Ordering::SeqCst;
                if super::CTRL_C.compare_exchange(ask, asked, order, order).is_err() {
                    signal_hook::low_level::exit(130);
                }
            })
        };
    }
}

/// Files that are mapped and became shorter: reading what is no more raises SIGBUS.
#[cfg(unix)]
mod mapped {
    use super::{AtomicBool, Ordering};
    use crate::error::Error;

    static LOST: AtomicBool = AtomicBool::new(false);

    pub fn is_lost() -> bool {
        LOST.load(Ordering::SeqCst)
    }

    pub fn error() -> Error {
        Error::input("cannot read a model any more")
            .because("its file became shorter while it was read, or its disk failed")
            .help("write models beside their place and rename them, and run again")
    }

    /// Where the thread that read cannot go on, it waits for the watcher to end the process.
    extern "C" fn lost(_: libc::c_int) {
        LOST.store(true, Ordering::SeqCst);
        // SAFETY: these calls are async-signal-safe, and take and give nothing but numbers.
        unsafe {
            libc::kill(libc::getpid(), libc::SIGTERM);
            loop {
                libc::pause();
            }
        }
    }

    pub fn watch() {
        // SAFETY: all zeros are a valid `sigaction` with an empty mask; the handler is a function of the form that goes with
        // no flags but that of the alternate stack, and does only what is allowed in one.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = lost as extern "C" fn(libc::c_int) as libc::sighandler_t;
            action.sa_flags = libc::SA_ONSTACK;
            libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
        }
    }
}

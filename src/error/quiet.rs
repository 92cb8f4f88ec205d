//! Libraries that panic: what they say then is an error's reason.

use super::Error;
use std::panic::{self, AssertUnwindSafe};

/// Runs what calls a library. A panic becomes its message. Whether it is printed as well is up to the process's own hook.
pub(crate) fn quietly<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    panic::catch_unwind(AssertUnwindSafe(f)).map_err(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        message.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_string()
    })
}

/// Reads a file with a library that may panic: then the file is to blame.
///
/// # Errors
/// Those of `f`, and a panic, with the file named.
pub(crate) fn reading<T>(file: &str, f: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let damaged = || Error::input(format!("cannot read {file}")).because("the library that reads it breaks off in it");
    quietly(f).unwrap_or_else(|_| Err(damaged()))
}

/// As [`quietly`], for all that a process does that is ours: no panic of any thread is printed, unless a backtrace is asked
/// for.
pub(crate) fn process<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    if std::env::var_os("RUST_BACKTRACE").is_none_or(|v| v == "0") {
        panic::set_hook(Box::new(|_| {}));
    }
    quietly(f)
}

#[cfg(test)]
mod tests {
    use super::{Error, quietly, reading};

    #[test]
    fn a_panic_is_a_message() {
        let half = |n: u32| if n.is_multiple_of(2) { n / 2 } else { panic!("{n} is odd") };
        assert_eq!(quietly(|| half(4)), Ok(2));
        assert_eq!(quietly(|| half(3)), Err("3 is odd".into()));
        let nested = quietly(|| quietly(|| half(5)));
        assert_eq!(nested, Ok(Err("5 is odd".into())));
        let e = reading("a.zip", || -> Result<u32, Error> { Ok(half(7)) }).unwrap_err();
        assert_eq!(e.reason(), "cannot read a.zip: the library that reads it breaks off in it");
        assert_eq!(e.exit_code(), 1);
    }
}

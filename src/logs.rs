//! What our threads have to say, which callers log.

use crate::cancellation::Cancellation;
use crate::error::Result;

/// What is to be logged.
pub(crate) type LogRecord = (log::Level, String);

/// Whose lines those of the engines are, for Python's `logging`.
pub(crate) const ENGINE: &str = "virtmeter::collector";
/// So many lines wait for a caller at most.
const MOST_LINES: usize = 1000;

/// Logs, which is for callers alone: a log line may reach a slow handler, which no other caller is to
/// wait for, or an interpreter that ends, and takes a thread of ours, which it does not know, with it.
///
/// # Errors
/// [`Interrupted`](crate::Error::Interrupted) if a handler has raised something, or Ctrl-C came: the caller is
/// to hear of it before anything else is logged, which may take long or raise something itself.
#[allow(clippy::disallowed_macros)]
pub(crate) fn log(target: &str, level: log::Level, line: &str) -> Result<()> {
    log::log!(target: target, level, "{line}");
    Cancellation::look()
}

/// Logs what an engine has to say, and gives back what is left where the caller is interrupted: for the next
/// one, see [`put_back`].
///
/// # Errors
/// As of [`log`].
pub(crate) fn log_all(lines: Vec<LogRecord>, give_back: impl FnOnce(Vec<LogRecord>)) -> Result<()> {
    let mut lines = lines.into_iter();
    while let Some((level, line)) = lines.next() {
        if let Err(interrupted) = log(ENGINE, level, &line) {
            give_back(lines.collect());
            return Err(interrupted);
        }
    }
    Ok(())
}

/// Has a line logged by the next caller, unless so many wait already.
pub(crate) fn add(log: &mut Vec<LogRecord>, level: log::Level, line: String) {
    if log.len() < MOST_LINES {
        log.push((level, line));
    }
}

/// Has lines logged before all that have come since.
pub(crate) fn put_back(log: &mut Vec<LogRecord>, mut left: Vec<LogRecord>) {
    left.append(log);
    left.truncate(MOST_LINES);
    *log = left;
}

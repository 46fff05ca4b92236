//! What our threads have to say, which callers log.

/// What is to be logged.
pub(crate) type LogRecord = (log::Level, String);

/// Logs, which is for callers alone: a log line may reach a slow handler, which no other caller is to
/// wait for, or an interpreter that ends, and takes a thread of ours, which it does not know, with it.
#[allow(clippy::disallowed_macros)]
pub(crate) fn log_all(lines: impl IntoIterator<Item = LogRecord>) {
    for (level, line) in lines {
        log::log!(target: "virtmeter::collector", level, "{line}");
    }
}

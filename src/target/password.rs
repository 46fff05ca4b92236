//! Where a password comes from, and how little is told of it.
//!
//! It is read anew at each login, so that a changed one is picked up; whoever was refused compares the
//! next one with it ([`Secret`] is `Eq`), and does not try the same again.

use std::ffi::OsString;
use std::fmt;
use std::fs::{Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::printable::Printable;

/// The environment variable that is read where the URI names no file.
pub(super) const VARIABLE: &str = "VIRTMETER_PASSWORD";

/// The longest password file, in bytes.
const LONGEST: u64 = 4096;

/// A password. Nothing shows it but [`Secret::expose`].
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// Keeps a password that the caller has got elsewhere.
    pub(crate) fn new(password: String) -> Self {
        Self(password)
    }

    /// The password itself, for the one place that sends it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A password, and what its reader should be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Password {
    pub(crate) secret: Secret,
    /// A sentence for the log: everybody can read the file.
    pub(crate) warning: Option<String>,
}

/// Where a password comes from, or why there is none.
pub(crate) type PasswordSource =
    Box<dyn Fn() -> std::result::Result<Password, String> + Send + Sync>;

/// Why there is no password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PasswordError {
    #[error(
        "there is no password: put it into a file that only its owner can read and add \
         password_file=FILE to the URI, or set the environment variable VIRTMETER_PASSWORD"
    )]
    Missing,
    #[error("the password file {} cannot be used: {reason}", Printable(&file.to_string_lossy()))]
    File {
        /// As the URI names it.
        file: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
    #[error("the environment variable VIRTMETER_PASSWORD cannot be used: {0}")]
    Variable(&'static str),
}

/// The password of a file, or else of the environment.
pub(super) fn read(
    file: Option<&Path>,
    variable: Option<OsString>,
) -> Result<Password, PasswordError> {
    if let Some(file) = file {
        return read_file(file)
            .map_err(|reason| PasswordError::File { file: file.to_owned(), reason });
    }
    let password = variable
        .ok_or(PasswordError::Missing)?
        .into_string()
        .map_err(|_| PasswordError::Variable("it is not UTF-8"))?;
    if password.is_empty() {
        return Err(PasswordError::Variable("it is empty; set it to the password"));
    }
    Ok(Password { secret: Secret(password), warning: None })
}

fn read_file(file: &Path) -> Result<Password, String> {
    let (bytes, metadata) = small_file(file, LONGEST)?;
    let mut password =
        String::from_utf8(bytes).map_err(|_| "it is not UTF-8; write it anew".to_owned())?;
    // Some editors begin a file with a byte-order mark, which nobody sees.
    if password.starts_with('\u{feff}') {
        password.remove(0);
    }
    if password.ends_with('\n') {
        password.pop();
        if password.ends_with('\r') {
            password.pop();
        }
    }
    if password.is_empty() {
        return Err("it is empty; write the password into it".to_owned());
    }
    if password.contains(['\n', '\r']) {
        return Err("it has more than one line; leave the password alone in it".to_owned());
    }
    let mode = metadata.permissions().mode() & 0o777;
    let warning = (mode & 0o004 != 0).then(|| {
        let file = file.to_string_lossy();
        format!(
            "everybody can read the password file {} (mode {mode:03o}); chmod o= keeps others out",
            Printable(&file)
        )
    });
    Ok(Password { secret: Secret(password), warning })
}

/// The bytes of a small regular file, or why they cannot be had. Neither a named pipe nor an endless
/// device holds up who reads it.
pub(crate) fn small_file(file: &Path, longest: u64) -> Result<(Vec<u8>, Metadata), String> {
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(file);
    let open = open.map_err(|error| error.to_string())?;
    let metadata = open.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    open.take(longest + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > longest {
        return Err(format!("it has more than {longest} bytes"));
    }
    Ok((bytes, metadata))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use crate::target::Target;

    /// A file of this test alone, which goes with it.
    struct File(PathBuf);

    impl File {
        fn new(name: &str, text: &[u8], mode: u32) -> Self {
            let name = format!("virtmeter-{}-{name}", std::process::id());
            let file = Self(std::env::temp_dir().join(name));
            fs::write(&file.0, text).unwrap();
            fs::set_permissions(&file.0, fs::Permissions::from_mode(mode)).unwrap();
            file
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn the_file_goes_before_the_environment_and_is_read_anew() {
        let file = File::new("anew", b"first\n", 0o600);
        let target: Target =
            format!("xenserver://u@h/?password_file={}", file.0.display()).parse().unwrap();
        let first = target.password().unwrap();
        assert_eq!((first.secret.expose(), &first.warning), ("first", &None));
        assert_eq!(target.password().unwrap().secret, first.secret);
        fs::write(&file.0, "second\r\n").unwrap();
        let second = target.password().unwrap();
        assert_eq!(second.secret.expose(), "second");
        assert_ne!(second.secret, first.secret);
        let both = read(Some(&file.0), Some("other".into())).unwrap();
        assert_eq!(both.secret.expose(), "second");
        // A file that cannot be read is not made up for by another password.
        let missing = read(Some(Path::new("/nonexistent")), Some("other".into()));
        assert!(matches!(missing, Err(PasswordError::File { .. })));
    }

    #[test]
    fn one_line_is_taken_as_it_is() {
        for (text, password) in
            [("a", "a"), ("\u{feff}a\n", "a"), (" a b \n", " a b "), ("é\"\t%40\r\n", "é\"\t%40")]
        {
            let file = File::new("line", text.as_bytes(), 0o400);
            assert_eq!(read(Some(&file.0), None).unwrap().secret.expose(), password);
        }
    }

    #[test]
    fn others_that_can_read_it_are_told_of() {
        for (mode, warned) in [(0o600, false), (0o400, false), (0o640, false), (0o604, true)] {
            let file = File::new("mode", b"s3cret", mode);
            let warning = read(Some(&file.0), None).unwrap().warning;
            assert_eq!(warning.is_some(), warned, "{mode:o}");
            if let Some(warning) = warning {
                assert!(warning.contains(&file.0.display().to_string()), "{warning}");
                assert!(warning.contains(&format!("{mode:o}")) && !warning.contains("s3cret"));
            }
        }
    }

    #[test]
    fn a_file_that_holds_no_password_is_named_with_the_reason() {
        let long = vec![b'a'; 4097];
        for (text, reason) in [
            (b"".as_slice(), "empty"),
            (b"\n", "empty"),
            (b"\r\n", "empty"),
            (b"\xef\xbb\xbf\n", "empty"),
            (b"s3cret\ns3cret\n", "more than one line"),
            (b"s3cret\n\n", "more than one line"),
            (b"s3cret\xff", "not UTF-8"),
            (&long, "more than 4096 bytes"),
        ] {
            let file = File::new("wrong", text, 0o600);
            let error = read(Some(&file.0), None).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(reason) && shown.contains("wrong"), "{shown}");
            assert!(!shown.contains("s3cret") && !shown.contains("aaaa"), "{shown}");
        }
        assert!(File::new("longest", &long[1..], 0o600).0.exists());
        for (file, reason) in [
            ("/nonexistent/file", "No such file"),
            ("/tmp", "not a regular file"),
            ("/dev/zero", "not a regular file"),
            ("/nonexistent/\u{1b}[2J", r"\x1b[2J"),
        ] {
            let error = read(Some(Path::new(file)), None).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_named_pipe_holds_up_nobody() {
        let file = std::env::temp_dir().join(format!("virtmeter-{}-pipe", std::process::id()));
        let made = std::process::Command::new("mkfifo").arg(&file).status().unwrap();
        assert!(made.success());
        let error = read(Some(&file), None).unwrap_err().to_string();
        fs::remove_file(&file).unwrap();
        assert!(error.contains("not a regular file"), "{error}");
    }

    #[test]
    fn the_environment_is_the_other_place() {
        let read = |variable: Option<&[u8]>| {
            read(None, variable.map(|bytes| OsString::from_vec(bytes.to_vec())))
        };
        assert_eq!(read(Some(b" s3cret ")).unwrap().secret.expose(), " s3cret ");
        assert_eq!(read(None), Err(PasswordError::Missing));
        for (value, reason) in [(b"".as_slice(), "empty"), (b"s3cret\xff", "not UTF-8")] {
            let error = read(Some(value)).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
            assert!(!format!("{error} {error:?}").contains("s3cret"));
        }
        assert!(PasswordError::Missing.to_string().contains("password_file="));
    }

    #[test]
    fn a_secret_shows_itself_to_nobody() {
        let secret = Secret::new("s3cret".to_owned());
        let password = Password { secret: secret.clone(), warning: None };
        assert!(!format!("{secret} {secret:?} {password:?}").contains("s3cret"));
    }
}

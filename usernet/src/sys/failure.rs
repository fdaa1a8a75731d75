//! Why we did not start.

use nix::errno::Errno;

/// Why we did not start; as it is shown to the user, in one or two lines.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A step failed.
    #[error("{what}: {}", .source.desc())]
    Step {
        /// The step, with the object it was about.
        what: String,
        /// What the kernel said.
        source: Errno,
    },
    /// Something else, said whole.
    #[error("{0}")]
    Told(String),
}

impl Failure {
    /// For `map_err`: what was tried.
    pub fn of(what: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let what = what.into();
        move |source| Self::Step { what, source }
    }

    /// The same failure with a line about what it means.
    #[must_use]
    pub fn and(self, line: &str) -> Self {
        Self::Told(format!("{self}\n{line}"))
    }
}

/// The error number in an error of the standard library.
#[must_use]
pub fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

//! What was entered as told, until it has reached its caller.

/// Takes back what was entered as told where it is dropped without being committed: its caller was interrupted
/// before it had its answer, and the next answer tells it.
#[must_use = "what is dropped is taken back"]
pub(crate) struct Rollback<'a>(Option<Box<dyn FnOnce() + Send + 'a>>);

impl<'a> Rollback<'a> {
    pub(crate) fn new(take_back: impl FnOnce() + Send + 'a) -> Self {
        Self(Some(Box::new(take_back)))
    }

    /// There was nothing to enter.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// Its caller has it.
    pub(crate) fn commit(mut self) {
        self.0 = None;
    }
}

/// An answer that its caller has.
pub(crate) fn committed<T>((answer, rollback): (T, Rollback<'_>)) -> T {
    rollback.commit();
    answer
}

impl Drop for Rollback<'_> {
    fn drop(&mut self) {
        if let Some(take_back) = self.0.take() {
            take_back();
        }
    }
}

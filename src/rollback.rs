//! What was entered as told, until it has reached its caller.

/// Takes back what was entered as told where it is dropped without being committed: its caller was interrupted
/// before it had its answer, and the next answer tells it.
#[must_use = "what is dropped is taken back"]
pub(crate) struct Rollback<'a>(Vec<Box<dyn FnOnce() + Send + 'a>>);

impl<'a> Rollback<'a> {
    pub(crate) fn new(take_back: impl FnOnce() + Send + 'a) -> Self {
        Self(vec![Box::new(take_back)])
    }

    /// There was nothing to enter.
    pub(crate) fn none() -> Self {
        Self(Vec::new())
    }

    /// So many more will be entered.
    pub(crate) fn reserve(&mut self, more: usize) {
        self.0.reserve_exact(more);
    }

    /// What was entered with it.
    pub(crate) fn add(&mut self, take_back: impl FnOnce() + Send + 'a) {
        self.0.push(Box::new(take_back));
    }

    /// Its caller has it.
    pub(crate) fn commit(mut self) {
        self.0 = Vec::new();
    }
}

/// An answer that its caller has.
pub(crate) fn committed<T>((answer, rollback): (T, Rollback<'_>)) -> T {
    rollback.commit();
    answer
}

impl Drop for Rollback<'_> {
    fn drop(&mut self) {
        while let Some(take_back) = self.0.pop() {
            take_back();
        }
    }
}

//! Why an expression is refused, with the place inside its text.

/// One reason, at a byte offset of the expression's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) offset: usize,
    pub(crate) reason: String,
    pub(crate) allowed: Vec<String>,
    pub(crate) nearest: Option<String>,
}

impl Refusal {
    pub(crate) fn new(offset: usize, reason: impl Into<String>) -> Self {
        Self {
            offset,
            reason: reason.into(),
            allowed: Vec::new(),
            nearest: None,
        }
    }

    /// Adds the names that would have been accepted, and the one most like `name`.
    pub(crate) fn among<'a>(
        mut self,
        name: &str,
        known: impl IntoIterator<Item = &'a str> + Clone,
    ) -> Self {
        self.nearest = crate::load_error::nearest(name, known.clone());
        self.allowed = known.into_iter().map(str::to_owned).collect();
        self
    }
}

use std::{fmt, sync::Arc};

use miette::{Diagnostic, LabeledSpan, NamedSource, Severity, SourceCode};

/// What is wrong with a run spec: what, where, and how to put it right.
///
/// One problem is shown as itself. Several are shown together: [`SpecError::problems`] holds each, and the message only
/// counts them.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct SpecError {
    /// The key that must change, such as `train.steps`; empty where no single key is at fault.
    pub key: String,
    /// What is wrong, naming the key, the value and where the value came from.
    pub message: String,
    /// What to do about it; empty where the message says all.
    pub fix: String,
    pub(crate) labels: Vec<LabeledSpan>,
    pub(crate) source_code: Option<Arc<NamedSource<String>>>,
    parts: Vec<SpecError>,
}

impl SpecError {
    pub(crate) fn new(key: impl Into<String>, message: String, fix: String) -> Self {
        Self {
            key: key.into(),
            message,
            fix,
            labels: Vec::new(),
            source_code: None,
            parts: Vec::new(),
        }
    }

    /// All of `problems` as one, `name` being what they are in; `Ok` where there are none.
    pub(crate) fn gather(name: &str, mut problems: Vec<Self>) -> Result<(), Self> {
        match problems.len() {
            0 => Ok(()),
            1 => Err(problems.remove(0)),
            count => {
                let message = format!("{name} has {count} problems");
                Err(Self {
                    parts: problems,
                    ..Self::new("", message, String::new())
                })
            }
        }
    }

    /// Each problem by itself; this one, where it is the only one.
    pub fn problems(&self) -> &[Self] {
        if self.parts.is_empty() {
            std::slice::from_ref(self)
        } else {
            &self.parts
        }
    }
}

impl Diagnostic for SpecError {
    fn severity(&self) -> Option<Severity> {
        Some(Severity::Error)
    }
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        (!self.fix.is_empty()).then(|| Box::new(&self.fix) as Box<dyn fmt::Display>)
    }
    fn source_code(&self) -> Option<&dyn SourceCode> {
        // Without a place to point at, the file's text would only be noise.
        let source = self
            .source_code
            .as_deref()
            .filter(|_| !self.labels.is_empty());
        source.map(|source| source as &dyn SourceCode)
    }
    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        (!self.labels.is_empty())
            .then(|| Box::new(self.labels.iter().cloned()) as Box<dyn Iterator<Item = LabeledSpan>>)
    }
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        let parts = self.parts.iter().map(|part| part as &dyn Diagnostic);
        (!self.parts.is_empty())
            .then(|| Box::new(parts) as Box<dyn Iterator<Item = &'a dyn Diagnostic>>)
    }
}

/// Everything that is wrong with the values of a [`RunSpec`](crate::RunSpec); never empty.
#[derive(Clone, Debug)]
pub struct SpecErrors(Vec<SpecError>);

impl SpecErrors {
    pub(crate) fn check(errors: Vec<SpecError>) -> Result<(), Self> {
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Self(errors))
        }
    }

    /// Each of them.
    pub fn errors(&self) -> &[SpecError] {
        &self.0
    }
}

impl From<SpecErrors> for SpecError {
    /// For a reader in front of a terminal, who gets each problem with its fix.
    fn from(SpecErrors(mut errors): SpecErrors) -> Self {
        if errors.len() == 1 {
            return errors.remove(0);
        }
        let message = format!("the run spec has {} problems", errors.len());
        Self {
            parts: errors,
            ..Self::new("", message, String::new())
        }
    }
}

impl fmt::Display for SpecErrors {
    /// All of them on one line, each with its fix: for a status message of an RPC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let gap = if index == 0 { "" } else { "; " };
            write!(f, "{gap}{}", error.message)?;
            if !error.fix.is_empty() {
                write!(f, " ({})", error.fix)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for SpecErrors {}

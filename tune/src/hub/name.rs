//! Names of models: `hub:org/name@revision`.

use std::fmt;
use std::str::FromStr;

use super::HubError;

/// What names of the hub begin with where a folder could stand too.
const PREFIX: &str = "hub:";
/// The revision of a name without one.
const MAIN: &str = "main";

/// A model of the hub at a revision: a branch, a tag, or a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubModel {
    /// `org/name`, or `name` for the oldest models.
    pub repository: String,
    /// `main` where the name says none.
    pub revision: String,
}

impl HubModel {
    /// Reads `hub:org/name[@revision]`; none where the text does not begin with `hub:`.
    ///
    /// # Errors
    /// [`HubError::Name`] for what cannot be a repository or revision.
    pub fn from_path(text: &str) -> Option<Result<Self, HubError>> {
        text.strip_prefix(PREFIX).map(str::parse)
    }
}

/// A full commit: forty hexadecimal digits.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

impl FromStr for HubModel {
    type Err = HubError;

    /// Reads `org/name[@revision]`. Both become parts of paths and addresses, so only what the hub allows passes.
    fn from_str(text: &str) -> Result<Self, HubError> {
        let (repository, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let plain = |part: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            !part.is_empty() && part.chars().all(known) && !part.starts_with(['.', '-']) && !part.contains("..")
        };
        let wrong = |what| HubError::Name { name: text.to_owned(), what };
        if repository.len() > 200
            || repository.contains("--")
            || !repository.split('/').all(plain)
            || repository.matches('/').count() > 1
        {
            return Err(wrong("a model is named org/name"));
        }
        if revision.len() > 200 || !revision.split('/').all(plain) {
            return Err(wrong("a revision is a branch, a tag or a commit"));
        }
        Ok(Self { repository: repository.to_owned(), revision: revision.to_owned() })
    }
}

impl fmt::Display for HubModel {
    /// As [`HubModel::from_path`] reads it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{PREFIX}{}", self.repository)?;
        if self.revision == MAIN { Ok(()) } else { write!(formatter, "@{}", self.revision) }
    }
}

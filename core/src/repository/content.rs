//! Where the contents of files of a tree are.

use std::io::Read;

use super::{ObjectError, Repository};
use crate::tree::Content;

/// Opens the contents of files of a tree: those of an image in a repository, or of a directory that was scanned.
pub trait OpenContent {
    /// Opens the contents of one file, to be read from the beginning.
    ///
    /// # Errors
    /// When they are not there, or are not what the tree says.
    fn open_content<'a>(&self, content: &'a Content) -> Result<Box<dyn Read + Send + 'a>, ObjectError>;
}

impl OpenContent for Repository {
    fn open_content<'a>(&self, content: &'a Content) -> Result<Box<dyn Read + Send + 'a>, ObjectError> {
        self.open_content(content)
    }
}

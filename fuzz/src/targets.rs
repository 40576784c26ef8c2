//! What is done with an input, one module for each format.

pub(crate) mod dumpfile;
pub(crate) mod erofs;
pub(crate) mod file_contexts;
pub(crate) mod json;
pub(crate) mod pe;
pub(crate) mod published;
pub(crate) mod signature;
pub(crate) mod splitstream;
pub(crate) mod tar;

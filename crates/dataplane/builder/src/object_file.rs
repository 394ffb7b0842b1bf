//! Reading and stripping the ELF file.

use std::{fs, path::Path};

use object::{
    Object as _, ObjectSection as _,
    build::elf::{Builder, SectionData},
};

use crate::{Error, read};

const COMPILER: &str = "evenkeel.compiler";
const SOURCES: &str = "evenkeel.sources";

/// What an object says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notes {
    /// The compiler's version line.
    pub compiler: String,
    /// Digest of the sources, as [`crate::sources_digest`] makes it.
    pub sources: String,
}

/// Reads an object's notes.
///
/// # Errors
/// When the file cannot be read or is no object of this project.
pub fn notes(path: &Path) -> Result<Notes, Error> {
    let data = read(path)?;
    let not_ours = |reason: String| Error::NotAnObject { path: path.to_owned(), reason };
    let file = object::File::parse(&*data).map_err(|error| not_ours(error.to_string()))?;
    let note = |name: &str| {
        let section = file.section_by_name(name).ok_or_else(|| not_ours(format!("it has no section {name}")))?;
        let bytes = section.data().map_err(|error| not_ours(error.to_string()))?;
        String::from_utf8(bytes.to_vec()).map_err(|error| not_ours(error.to_string()))
    };
    Ok(Notes { compiler: note(COMPILER)?, sources: note(SOURCES)? })
}

/// Copies the object without its DWARF sections. BTF stays: the kernel and the loader need it.
pub(crate) fn strip(from: &Path, to: &Path) -> Result<(), Error> {
    let data = read(from)?;
    let not_ours = |reason: String| Error::NotAnObject { path: from.to_owned(), reason };
    let mut builder = Builder::read(&*data).map_err(|error| not_ours(error.to_string()))?;
    for section in &mut builder.sections {
        let name = section.name.to_vec();
        section.delete |= name.starts_with(b".debug") || name.starts_with(b".rel.debug");
    }
    // LLVM keeps all names in one table; the writer wants the sections' names in their own.
    if !builder.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        let names = builder.sections.add();
        names.name = b".shstrtab".to_vec().into();
        names.sh_type = object::elf::SHT_STRTAB;
        names.data = SectionData::SectionString;
    }
    builder.delete_orphans();
    let mut stripped = Vec::new();
    builder.write(&mut stripped).map_err(|error| not_ours(error.to_string()))?;
    fs::write(to, stripped).map_err(|source| Error::File { path: to.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripping_leaves_btf_and_notes_and_takes_nothing_away_twice() {
        let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..").join(crate::COMMITTED);
        let directory = tempfile::tempdir().unwrap();
        let (once, twice) = (directory.path().join("once"), directory.path().join("twice"));
        strip(&committed, &once).unwrap();
        strip(&once, &twice).unwrap();
        assert_eq!(notes(&twice).unwrap(), notes(&committed).unwrap());
        let data = fs::read(&twice).unwrap();
        let file = object::File::parse(&*data).unwrap();
        let names: Vec<&str> = file.sections().filter_map(|section| section.name().ok()).collect();
        assert!(names.contains(&".BTF") && names.contains(&".BTF.ext"), "{names:?}");
        assert!(!names.iter().any(|name| name.contains("debug")), "{names:?}");
    }
}

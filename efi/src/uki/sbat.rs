//! The section `.sbat`: generations of the parts of a program, by which old ones are revoked together.

use super::names;
use super::profile::until_nul;
use crate::pe::Pe;

/// Begins every such section.
const HEADER: &str = "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md";
/// Begins the first line of every such section.
const MARK: &str = "sbat,";
/// Says that something is a UKI, where nothing else is given.
pub(super) const UKI: &str = "uki,1,UKI,uki,1,https://uapi-group.org/specifications/specs/unified_kernel_image/";
/// The same of addons.
pub(super) const ADDON: &str =
    "uki-addon,1,UKI Addon,addon,1,https://www.freedesktop.org/software/systemd/man/latest/systemd-stub.html";

/// Merges the lines of these programs, then these further lines, behind one header. With a NUL at the end.
///
/// The lines of a text may begin with the header or not.
pub(super) fn merge(programs: &[&Pe<'_>], texts: &[&str]) -> String {
    let mut merged = vec![HEADER];
    for program in programs {
        let Some(section) = program.section(names::SBAT) else { continue };
        let text = std::str::from_utf8(until_nul(section.data)).unwrap_or_default();
        merged.extend(lines(text));
    }
    merged.extend(texts.iter().flat_map(|text| lines(text)));
    format!("{}\n\0", merged.join("\n"))
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.starts_with(MARK))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pe::fake::pe;

    #[test]
    fn lines_of_all_parts_stand_behind_one_header() {
        let stub = pe(&[(".sbat", b"sbat,1,SBAT Version,sbat,1,x\nsystemd-stub,1,a\n\0\0")]);
        let kernel = pe(&[(".sbat", b"sbat,1,y\nlinux,1,b\r\nlinux.example,1,c")]);
        let plain = pe(&[(".text", b"x")]);
        let programs = [&stub, &kernel, &plain].map(|file| Pe::parse(file).unwrap());
        let merged = merge(&programs.each_ref(), &["sbat,1,z\nuki,1,d\n", "more,1,e"]);
        let lines = "systemd-stub,1,a\nlinux,1,b\nlinux.example,1,c\nuki,1,d\nmore,1,e\n\0";
        assert_eq!(merged, format!("{HEADER}\n{lines}"));
    }
}

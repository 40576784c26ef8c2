//! SBAT: revocation of whole generations of boot programs. Source: SBAT.md of shim.

use std::borrow::Cow;

use super::Refused;

/// Lines of more than this are no sensible table.
const LINES_MAX: usize = 1024;

/// A component of a program, or the generation that is asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// Its name: `systemd`.
    pub name: String,
    /// Its generation; what is not a number is 0.
    pub generation: u32,
}

/// Fields of a line in the section of a program.
const FIELDS: usize = 6;

/// Whether shim wants a program to have components at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sbat {
    /// Not of what a boot loader starts.
    Optional,
    /// Of what it starts itself.
    Required,
}

/// Reads a table: `NAME,GENERATION,...` in each line, up to the first NUL.
fn components(table: &[u8]) -> Vec<Component> {
    let component = |line: &str| {
        let mut fields = line.split(',');
        let name = fields.next().unwrap_or_default().to_owned();
        let digits: String = fields.next().unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
        Component { name, generation: digits.parse().unwrap_or(0) }
    };
    lines(&text(table)).map(|(_, line)| component(line)).filter(|component| !component.name.is_empty()).collect()
}

fn text(table: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(table.split(|byte| *byte == 0).next().unwrap_or_default())
}

/// Lines that are not empty, with their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.trim_start_matches('\u{feff}').lines().map(|line| line.trim_end_matches('\r'));
    lines.take(LINES_MAX).enumerate().filter(|(_, line)| !line.is_empty()).map(|(index, line)| (index + 1, line))
}

/// The generations that components must have to be started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SbatLevel(Vec<Component>);

impl SbatLevel {
    /// Reads the contents of the variable `SbatLevelRT`.
    pub fn parse(table: &[u8]) -> Self {
        Self(components(table))
    }

    /// The components, with the generations that they must have at least.
    pub fn components(&self) -> &[Component] {
        &self.0
    }

    /// Checks the contents of a program's section `.sbat`, empty without one. Where no generations are asked for, shim does not
    /// look.
    pub(super) fn check(&self, section: &[u8], sbat: Sbat) -> Result<(), Refused> {
        if self.0.is_empty() {
            return Ok(());
        }
        if section.is_empty() {
            return if sbat == Sbat::Required { Err(Refused::NoComponents) } else { Ok(()) };
        }
        let is_whole = |line: &str| line.split(',').take(FIELDS).filter(|field| !field.is_empty()).count() == FIELDS;
        if let Some((line, _)) = lines(&text(section)).find(|(_, line)| !is_whole(line)) {
            return Err(Refused::Components { line });
        }
        for Component { name, generation } in components(section) {
            if let Some(level) = self.0.iter().find(|level| level.name == name && level.generation > generation) {
                return Err(Refused::Generation { component: name, generation, needed: level.generation });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVEL: &[u8] = b"sbat,1,2024040900\nshim,4\ngrub,5\nsystemd,2\n";

    #[test]
    fn an_older_generation_is_refused() {
        let level = SbatLevel::parse(LEVEL);
        let program = |systemd: &str| {
            let lines = format!(
                "sbat,1,SBAT Version,sbat,1,https://example.com\nsystemd,{systemd},Example,systemd,257,https://example.com\n\0x"
            );
            level.check(lines.as_bytes(), Sbat::Required)
        };
        assert_eq!(program("2"), Ok(()));
        assert_eq!(program("10"), Ok(()));
        let refused = Refused::Generation { component: "systemd".to_owned(), generation: 1, needed: 2 };
        assert_eq!(program("1"), Err(refused.clone()));
        assert_eq!(refused.to_string(), "its component systemd has the generation 1, and shim starts 2 and later");
        assert!(matches!(program("x"), Err(Refused::Generation { generation: 0, .. })));
        assert_eq!(SbatLevel::default().check(b"systemd,0\n", Sbat::Required), Ok(()));
    }

    #[test]
    fn what_shim_itself_starts_has_components() {
        let level = SbatLevel::parse(LEVEL);
        assert_eq!(level.check(b"", Sbat::Optional), Ok(()));
        assert_eq!(level.check(b"", Sbat::Required), Err(Refused::NoComponents));
        assert_eq!(SbatLevel::default().check(b"", Sbat::Required), Ok(()));
    }

    #[test]
    fn lines_with_too_few_fields_are_refused() {
        let level = SbatLevel::parse(LEVEL);
        let check = |section: &[u8]| level.check(section, Sbat::Optional);
        assert_eq!(check(b"sbat,1,a,b,c,d\r\n\nother,1,a,b,1,d,more\n"), Ok(()));
        assert_eq!(check(b"sbat,1,a,b,c,d\n\nother,1,a,b,c\n"), Err(Refused::Components { line: 3 }));
        assert_eq!(check(b"sbat,1,a,b,c,d\nother,1,,b,c,d\n"), Err(Refused::Components { line: 2 }));
        assert_eq!(check(b"no table"), Err(Refused::Components { line: 1 }));
    }
}

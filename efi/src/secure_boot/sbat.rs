//! SBAT: revocation of whole generations of boot programs. Source: SBAT.md of shim.

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

/// Reads a table: `NAME,GENERATION,...` in each line, up to the first NUL.
fn components(table: &[u8]) -> Vec<Component> {
    let table = table.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(table);
    let text = text.trim_start_matches('\u{feff}');
    let component = |line: &str| {
        let mut fields = line.trim_end_matches('\r').split(',');
        let name = fields.next().unwrap_or_default().to_owned();
        let digits: String = fields.next().unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
        Component { name, generation: digits.parse().unwrap_or(0) }
    };
    text.lines().take(LINES_MAX).map(component).filter(|component| !component.name.is_empty()).collect()
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

    /// Checks the contents of a program's section `.sbat`. Without one it has no components, which shim accepts of programs
    /// that a boot loader starts.
    pub(super) fn check(&self, section: &[u8]) -> Result<(), Refused> {
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

    #[test]
    fn an_older_generation_is_refused() {
        let level = SbatLevel::parse(b"sbat,1,2024040900\nshim,4\ngrub,5\nsystemd,2\n");
        let program = |systemd: &str| {
            level.check(
                format!("sbat,1,SBAT Version,sbat,1,https://example.com\nsystemd,{systemd},Example\n\0x").as_bytes(),
            )
        };
        assert_eq!(program("2"), Ok(()));
        assert_eq!(program("10"), Ok(()));
        let refused = Refused::Generation { component: "systemd".to_owned(), generation: 1, needed: 2 };
        assert_eq!(program("1"), Err(refused.clone()));
        assert_eq!(refused.to_string(), "its component systemd has the generation 1, and shim starts 2 and later");
        assert!(matches!(program("x"), Err(Refused::Generation { generation: 0, .. })));
        assert_eq!(level.check(b""), Ok(()));
        assert_eq!(SbatLevel::default().check(b"systemd,0\n"), Ok(()));
    }
}

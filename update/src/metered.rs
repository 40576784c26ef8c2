//! Whether somebody pays for the bytes of the network connection, as NetworkManager sees it.

use std::process::{Command, Stdio};

/// Asks NetworkManager. Where it does not run, or cannot be asked, nothing is metered.
///
/// *Rationale for `busctl`:* systemd, without which no image boots, has it; a D-Bus library would be larger than all the rest.
pub(crate) fn is_metered() -> bool {
    const NAME: &str = "org.freedesktop.NetworkManager";
    const PATH: &str = "/org/freedesktop/NetworkManager";
    let output = Command::new("busctl")
        .args(["--system", "--auto-start=no", "--timeout=5", "get-property", NAME, PATH, NAME, "Metered"])
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => says_metered(&String::from_utf8_lossy(&output.stdout)),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            tracing::info!("NetworkManager does not tell whether the connection is metered: {}", said.trim_end());
            false
        }
        Err(error) => {
            tracing::info!("cannot run busctl to ask NetworkManager: {error}");
            false
        }
    }
}

/// Reads what `busctl` prints of an `NMMetered`: unknown 0, yes 1, no 2, probably 3, probably not 4.
fn says_metered(property: &str) -> bool {
    matches!(property.trim().strip_prefix("u "), Some("1" | "3"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yes_and_probably_are_metered() {
        for metered in ["u 1\n", "u 3\n"] {
            assert!(says_metered(metered), "{metered}");
        }
        for other in ["u 0\n", "u 2\n", "u 4\n", "u 11\n", "", "s \"1\"\n"] {
            assert!(!says_metered(other), "{other}");
        }
    }
}

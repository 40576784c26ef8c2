//! [`Machine`], the processor that a program runs on.

use std::fmt;

/// The processor of a PE file, by the names that UEFI file names use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Machine {
    /// 32-bit x86.
    Ia32,
    /// 64-bit x86.
    X64,
    /// 32-bit Arm.
    Arm,
    /// 64-bit Arm.
    Aa64,
    /// 32-bit RISC-V.
    RiscV32,
    /// 64-bit RISC-V.
    RiscV64,
    /// 32-bit LoongArch.
    LoongArch32,
    /// 64-bit LoongArch.
    LoongArch64,
    /// Another one, by its number in the file header.
    Other(u16),
}

impl Machine {
    /// As in the name of systemd's boot stub, `linuxx64.efi.stub`: `x64`, `aa64`, …; none for [`Machine::Other`].
    pub fn efi_name(self) -> Option<&'static str> {
        Some(match self {
            Self::Ia32 => "ia32",
            Self::X64 => "x64",
            Self::Arm => "arm",
            Self::Aa64 => "aa64",
            Self::RiscV32 => "riscv32",
            Self::RiscV64 => "riscv64",
            Self::LoongArch32 => "loongarch32",
            Self::LoongArch64 => "loongarch64",
            Self::Other(_) => return None,
        })
    }
}

impl From<u16> for Machine {
    fn from(number: u16) -> Self {
        match number {
            0x014C => Self::Ia32,
            0x8664 => Self::X64,
            0x01C2 => Self::Arm,
            0xAA64 => Self::Aa64,
            0x5032 => Self::RiscV32,
            0x5064 => Self::RiscV64,
            0x6232 => Self::LoongArch32,
            0x6264 => Self::LoongArch64,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.efi_name(), self) {
            (Some(name), _) => f.write_str(name),
            (None, Self::Other(number)) => write!(f, "machine 0x{number:04x}"),
            (None, _) => f.write_str("unknown machine"),
        }
    }
}

//! Terminals, and what nobody typed.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

/// Requests to a terminal, or to a virtual console, to take bytes as if they had been typed. `asm-generic/ioctls.h`.
const FORGING: [u64; 2] = [0x5412, 0x541c];
/// `ioctl` of programs for the x32 ABI, which have the same architecture.
const X32_IOCTL: i64 = 0x4000_0000 + 514;

/// Forbids the process, and the programs that it starts, to put input into a terminal that they share with others, who would take it for
/// what the user typed. The requests fail with `EPERM`. Programs for another architecture cannot run any more.
///
/// # Errors
/// When the kernel has no seccomp, or this architecture is not known.
pub fn forbid() -> io::Result<()> {
    let program = program().map_err(io::Error::other)?;
    apply_filter(&program).map_err(io::Error::other)
}

fn program() -> Result<BpfProgram, seccompiler::BackendError> {
    let is = |request| {
        let condition = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, request)?;
        SeccompRule::new(vec![condition])
    };
    let rules = FORGING.into_iter().map(is).collect::<Result<Vec<_>, _>>()?;
    let calls = [libc::SYS_ioctl, X32_IOCTL];
    let filter = SeccompFilter::new(
        calls.into_iter().map(|call| (call, rules.clone())).collect::<BTreeMap<_, _>>(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        ARCH.try_into()?,
    )?;
    filter.try_into()
}

//! libFuzzer on the target that the environment variable `OSUPDATE_FUZZ_TARGET` names; see `fuzz/run`.
#![no_main]
// The entry points of libFuzzer have C names.
#![allow(unsafe_code)]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use osupdate_fuzz::Target;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("OSUPDATE_FUZZ_TARGET").expect("OSUPDATE_FUZZ_TARGET names a target");
    Target::find(&name).unwrap_or_else(|| panic!("there is no target {name:?}"))
});

fuzz_target!(init: osupdate_fuzz::report_panics_without_limit(), |input: &[u8]| TARGET.run(input));

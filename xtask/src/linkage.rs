//! `muster` starts in milliseconds and installs anywhere because it does not link libtorch.

use std::process::Command;

/// Reads the dynamic section of the binary at `path` with `readelf`.
///
/// # Errors
/// Where it needs libtorch, or cannot be read.
pub fn check(path: &str) -> Result<String, Vec<String>> {
    let output = Command::new("readelf")
        .args(["-d", path])
        .output()
        .map_err(|error| vec![format!("cannot run readelf (package binutils): {error}")])?;
    if !output.status.success() {
        return Err(vec![format!("cannot read {path}; run `make build` first")]);
    }
    let needed = needed(&String::from_utf8_lossy(&output.stdout));
    if needed.is_empty() {
        return Err(vec![format!(
            "{path} lists no libraries at all: is it the binary?"
        )]);
    }
    let torch: Vec<_> = needed
        .iter()
        .filter(|name| name.contains("torch") || name.contains("c10"))
        .collect();
    if torch.is_empty() {
        Ok(format!("{path} needs {}", needed.join(", ")))
    } else {
        Err(vec![format!(
            "{path} needs {torch:?}: the control plane must not link libtorch"
        )])
    }
}

fn needed(dynamic_section: &str) -> Vec<String> {
    dynamic_section
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::needed;

    #[test]
    fn needed_libraries_are_read() {
        let section = " 0x01 (NEEDED)  Shared library: [libtorch_cpu.so]\n 0x0e (SONAME)  Library soname: [x.so]\n";
        assert_eq!(needed(section), ["libtorch_cpu.so"]);
    }
}

use muster_types::{Generation, StateId, Step};

/// The name of a checkpoint's directory, e.g. `step-0000001000.g7`: names sort by step, and no two states share one.
pub fn directory_name(state: StateId) -> String {
    format!("step-{:010}.g{}", state.step.get(), state.generation)
}

/// The state that a directory's name stands for; `None` for any text that [`directory_name`] does not make.
pub fn parse_directory_name(name: &str) -> Option<StateId> {
    let (step, generation) = name.strip_prefix("step-")?.split_once(".g")?;
    let state = StateId::new(
        Generation(generation.parse().ok()?),
        Step(step.parse().ok()?),
    );
    // One state, one name: `step-1.g7` or a sign would be a second one.
    (directory_name(state) == name).then_some(state)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_name_is_as_documented() {
        let state = StateId::new(Generation(7), Step(1000));
        assert_eq!(directory_name(state), "step-0000001000.g7");
    }

    #[test]
    fn other_names_are_no_checkpoints() {
        for name in [
            "",
            "step-1.g7",
            "step-+000000001.g7",
            "step-0000001000",
            "step-0000001000.g",
            "step-0000001000.g7.tmp",
        ] {
            assert_eq!(parse_directory_name(name), None, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn names_read_back(generation in any::<u64>(), step in any::<u64>()) {
            let state = StateId::new(Generation(generation), Step(step));
            prop_assert_eq!(parse_directory_name(&directory_name(state)), Some(state));
        }
    }
}

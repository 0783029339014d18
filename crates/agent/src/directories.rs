use std::path::PathBuf;

/// Where the files of jobs lie on this node.
#[derive(Clone, Debug)]
pub(crate) struct Directories {
    pub(crate) data_dir: PathBuf,
    pub(crate) job_dir: Option<PathBuf>,
}

impl Directories {
    /// A job's directory, if `job` is a name that stays below the data directory.
    pub(crate) fn job(&self, job: &str) -> Option<PathBuf> {
        is_plain(job).then(|| {
            self.job_dir
                .clone()
                .unwrap_or_else(|| self.data_dir.join("jobs").join(job))
        })
    }

    /// Where a worker's stdout and stderr go.
    pub(crate) fn log(&self, job: &str, worker: &str) -> Option<PathBuf> {
        let directory = self.job(job)?;
        is_plain(worker).then(|| directory.join("logs").join(format!("{worker}.log")))
    }
}

/// Names come over the network; none may lead out of its directory.
pub(crate) fn is_plain(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && name.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_lead_out_of_the_data_directory() {
        let directories = Directories {
            data_dir: "/data".into(),
            job_dir: None,
        };
        assert_eq!(
            directories.log("j", "w-1"),
            Some("/data/jobs/j/logs/w-1.log".into())
        );
        for bad in ["", "..", "../x", "a/b", "/etc", ".hidden", "a\0b"] {
            assert_eq!(directories.job(bad), None, "{bad:?}");
            assert_eq!(directories.log("j", bad), None, "{bad:?}");
        }
        let single = Directories {
            data_dir: "/data".into(),
            job_dir: Some("/out".into()),
        };
        assert_eq!(single.log("j", "w"), Some("/out/logs/w.log".into()));
    }
}

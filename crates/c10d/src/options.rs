//! What a group needs to know before it forms.
use std::time::Duration;

use tch::Device;

use crate::GroupError;

/// Where Gloo listens, and from where it connects: exactly there, and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GlooAddress {
    /// A host name or IP address of this machine.
    Host(String),
    /// A network interface of this machine, such as `eth0`.
    Interface(String),
}

/// One rank's view of the group to form.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupOptions {
    /// This process's index, below `world_size`.
    pub rank: u32,
    /// How many processes form the group.
    pub world_size: u32,
    /// Where the tensors live: the CPU (Gloo) or one GPU (NCCL).
    pub device: Device,
    /// The bound of one collective.
    pub timeout: Duration,
    /// The bound of [`Group::form`](crate::Group::form).
    pub form_timeout: Duration,
    /// Where Gloo listens; NCCL has its own way (`NCCL_SOCKET_IFNAME`).
    pub address: GlooAddress,
    /// Threads that run Gloo's collectives.
    pub gloo_threads: u32,
}

impl GroupOptions {
    /// Tensors on the CPU, 127.0.0.1, two threads, and a minute for a collective and for forming.
    pub fn new(rank: u32, world_size: u32) -> Self {
        Self {
            rank,
            world_size,
            device: Device::Cpu,
            timeout: Duration::from_secs(60),
            form_timeout: Duration::from_secs(60),
            address: GlooAddress::Host("127.0.0.1".into()),
            gloo_threads: 2,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), GroupError> {
        let problem = if self.rank >= self.world_size {
            format!("rank {} of a world of {}", self.rank, self.world_size)
        } else if i32::try_from(self.world_size).is_err() {
            format!("a world of {}", self.world_size)
        } else if self.gloo_threads == 0 || i32::try_from(self.gloo_threads).is_err() {
            format!("{} Gloo threads", self.gloo_threads)
        } else if self.timeout.as_millis() == 0 || self.form_timeout.as_millis() == 0 {
            "a timeout under one millisecond".into()
        } else if !matches!(self.device, Device::Cpu | Device::Cuda(_)) {
            format!("device {:?}, which has no collectives", self.device)
        } else {
            return Ok(());
        };
        Err(GroupError::InvalidOptions { cause: problem })
    }
}

/// Milliseconds as libtorch counts them; what does not fit is as good as for ever.
pub(crate) fn milliseconds(duration: Duration) -> i64 {
    // A time point this far ahead still fits C++'s nanosecond clock.
    const FOR_EVER_MS: u64 = 10 * 365 * 24 * 3600 * 1000;
    u64::try_from(duration.as_millis())
        .unwrap_or(FOR_EVER_MS)
        .min(FOR_EVER_MS) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_with_its_numbers() {
        let refused = |change: fn(&mut GroupOptions)| {
            let mut options = GroupOptions::new(0, 2);
            change(&mut options);
            options
                .validate()
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default()
        };
        assert!(GroupOptions::new(1, 2).validate().is_ok());
        assert!(refused(|o| o.rank = 2).contains("rank 2 of a world of 2"));
        assert!(refused(|o| o.world_size = u32::MAX).contains("4294967295"));
        assert!(refused(|o| o.gloo_threads = 0).contains("0 Gloo threads"));
        assert!(refused(|o| o.timeout = Duration::ZERO).contains("millisecond"));
        assert!(refused(|o| o.device = Device::Mps).contains("Mps"));
    }
}

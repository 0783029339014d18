use nvml_wrapper::{
    Nvml,
    enum_wrappers::device::{EccCounter, MemoryError},
    error::NvmlError,
};

/// What NVML says of a machine's GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuSurvey {
    /// The driver's version.
    pub driver: String,
    /// The GPUs, by index; those that do not answer with the reason.
    pub gpus: Vec<Result<Gpu, String>>,
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// As its maker calls it.
    pub name: String,
    /// Its memory in bytes.
    pub memory_bytes: u64,
    /// Memory errors since the driver was loaded that could not be corrected; absent where nobody counts them.
    pub uncorrected_errors: Option<u64>,
    /// It is cut into instances.
    pub mig: bool,
}

/// Asks NVML about the GPUs of this machine.
///
/// # Errors
/// Why there is no answer: without a driver, NVML's library is missing.
pub fn survey_gpus() -> Result<GpuSurvey, String> {
    let words = |error: NvmlError| error.to_string();
    let nvml = nvml().map_err(words)?;
    let count = nvml.device_count().map_err(words)?;
    Ok(GpuSurvey {
        driver: nvml.sys_driver_version().map_err(words)?,
        gpus: (0..count)
            .map(|index| look_at(&nvml, index).map_err(words))
            .collect(),
    })
}

fn look_at(nvml: &Nvml, index: u32) -> Result<Gpu, NvmlError> {
    let gpu = nvml.device_by_index(index)?;
    let uncorrected = gpu.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile);
    Ok(Gpu {
        name: gpu.name()?,
        memory_bytes: gpu.memory_info()?.total,
        // Those that have no ECC say so by an error.
        uncorrected_errors: uncorrected.ok(),
        mig: gpu.mig_mode().is_ok_and(|mode| mode.current == 1),
    })
}

/// NVML, if there is a driver.
pub(crate) fn nvml() -> Result<Nvml, NvmlError> {
    // The development package's name first, then the one that every driver installs.
    Nvml::init().or_else(|_| {
        Nvml::builder()
            .lib_path("libnvidia-ml.so.1".as_ref())
            .init()
    })
}

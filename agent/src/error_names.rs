//! Names of the error codes that GPU runtimes return, for people who read a signal.
//!
//! Data only. CUDA runtime and driver share numbers since CUDA 10.1 (driver_types.h, cuda.h 12.9); HIP follows them
//! (hip_runtime_api.h 6.4); Ascend has its own (acl/acl_base.h and rt_error_codes.h of CANN 8). A code that is not here
//! is shown as its number: nothing is guessed.

use railwatch_abi::cookie::Layer;

const CUDA_RUNTIME: &[(i32, &str)] = &[
    (1, "cudaErrorInvalidValue"),
    (2, "cudaErrorMemoryAllocation"),
    (3, "cudaErrorInitializationError"),
    (4, "cudaErrorCudartUnloading"),
    (34, "cudaErrorStubLibrary"),
    (35, "cudaErrorInsufficientDriver"),
    (36, "cudaErrorCallRequiresNewerDriver"),
    (46, "cudaErrorDevicesUnavailable"),
    (49, "cudaErrorIncompatibleDriverContext"),
    (100, "cudaErrorNoDevice"),
    (101, "cudaErrorInvalidDevice"),
    (201, "cudaErrorDeviceUninitialized"),
    (205, "cudaErrorMapBufferObjectFailed"),
    (206, "cudaErrorUnmapBufferObjectFailed"),
    (214, "cudaErrorECCUncorrectable"),
    (217, "cudaErrorPeerAccessUnsupported"),
    (304, "cudaErrorOperatingSystem"),
    (400, "cudaErrorInvalidResourceHandle"),
    (700, "cudaErrorIllegalAddress"),
    (701, "cudaErrorLaunchOutOfResources"),
    (702, "cudaErrorLaunchTimeout"),
    (709, "cudaErrorContextIsDestroyed"),
    (710, "cudaErrorAssert"),
    (711, "cudaErrorTooManyPeers"),
    (712, "cudaErrorHostMemoryAlreadyRegistered"),
    (713, "cudaErrorHostMemoryNotRegistered"),
    (714, "cudaErrorHardwareStackError"),
    (715, "cudaErrorIllegalInstruction"),
    (716, "cudaErrorMisalignedAddress"),
    (717, "cudaErrorInvalidAddressSpace"),
    (718, "cudaErrorInvalidPc"),
    (719, "cudaErrorLaunchFailure"),
    (800, "cudaErrorNotPermitted"),
    (801, "cudaErrorNotSupported"),
    (802, "cudaErrorSystemNotReady"),
    (803, "cudaErrorSystemDriverMismatch"),
    (804, "cudaErrorCompatNotSupportedOnDevice"),
    (900, "cudaErrorStreamCaptureUnsupported"),
    (999, "cudaErrorUnknown"),
];

const CUDA_DRIVER: &[(i32, &str)] = &[
    (1, "CUDA_ERROR_INVALID_VALUE"),
    (2, "CUDA_ERROR_OUT_OF_MEMORY"),
    (3, "CUDA_ERROR_NOT_INITIALIZED"),
    (4, "CUDA_ERROR_DEINITIALIZED"),
    (34, "CUDA_ERROR_STUB_LIBRARY"),
    (46, "CUDA_ERROR_DEVICE_UNAVAILABLE"),
    (100, "CUDA_ERROR_NO_DEVICE"),
    (101, "CUDA_ERROR_INVALID_DEVICE"),
    (201, "CUDA_ERROR_INVALID_CONTEXT"),
    (205, "CUDA_ERROR_MAP_FAILED"),
    (206, "CUDA_ERROR_UNMAP_FAILED"),
    (214, "CUDA_ERROR_ECC_UNCORRECTABLE"),
    (217, "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED"),
    (304, "CUDA_ERROR_OPERATING_SYSTEM"),
    (400, "CUDA_ERROR_INVALID_HANDLE"),
    (700, "CUDA_ERROR_ILLEGAL_ADDRESS"),
    (701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"),
    (702, "CUDA_ERROR_LAUNCH_TIMEOUT"),
    (709, "CUDA_ERROR_CONTEXT_IS_DESTROYED"),
    (710, "CUDA_ERROR_ASSERT"),
    (712, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED"),
    (713, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED"),
    (714, "CUDA_ERROR_HARDWARE_STACK_ERROR"),
    (715, "CUDA_ERROR_ILLEGAL_INSTRUCTION"),
    (716, "CUDA_ERROR_MISALIGNED_ADDRESS"),
    (718, "CUDA_ERROR_INVALID_PC"),
    (719, "CUDA_ERROR_LAUNCH_FAILED"),
    (800, "CUDA_ERROR_NOT_PERMITTED"),
    (801, "CUDA_ERROR_NOT_SUPPORTED"),
    (802, "CUDA_ERROR_SYSTEM_NOT_READY"),
    (803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"),
    (900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"),
    (999, "CUDA_ERROR_UNKNOWN"),
];

const HIP: &[(i32, &str)] = &[
    (1, "hipErrorInvalidValue"),
    (2, "hipErrorOutOfMemory"),
    (3, "hipErrorNotInitialized"),
    (4, "hipErrorDeinitialized"),
    (35, "hipErrorInsufficientDriver"),
    (100, "hipErrorNoDevice"),
    (101, "hipErrorInvalidDevice"),
    (201, "hipErrorInvalidContext"),
    (205, "hipErrorMapFailed"),
    (206, "hipErrorUnmapFailed"),
    (214, "hipErrorECCNotCorrectable"),
    (400, "hipErrorInvalidHandle"),
    (700, "hipErrorIllegalAddress"),
    (701, "hipErrorLaunchOutOfResources"),
    (702, "hipErrorLaunchTimeOut"),
    (709, "hipErrorContextIsDestroyed"),
    (710, "hipErrorAssert"),
    (712, "hipErrorHostMemoryAlreadyRegistered"),
    (713, "hipErrorHostMemoryNotRegistered"),
    (719, "hipErrorLaunchFailure"),
    (801, "hipErrorNotSupported"),
    (999, "hipErrorUnknown"),
];

const ACL: &[(i32, &str)] = &[
    (100_000, "ACL_ERROR_INVALID_PARAM"),
    (100_001, "ACL_ERROR_UNINITIALIZE"),
    (107_000, "ACL_ERROR_RT_PARAM_INVALID"),
    (107_001, "ACL_ERROR_RT_INVALID_DEVICEID"),
    (107_002, "ACL_ERROR_RT_CONTEXT_NULL"),
    (107_003, "ACL_ERROR_RT_STREAM_CONTEXT"),
    (107_014, "ACL_ERROR_RT_INVALID_HANDLE"),
    (200_000, "ACL_ERROR_BAD_ALLOC"),
    (207_000, "ACL_ERROR_RT_FEATURE_NOT_SUPPORT"),
    (207_001, "ACL_ERROR_RT_MEMORY_ALLOCATION"),
    (207_002, "ACL_ERROR_RT_MEMORY_FREE"),
    (500_000, "ACL_ERROR_INTERNAL_ERROR"),
    (500_001, "ACL_ERROR_FAILURE"),
    (507_000, "ACL_ERROR_RT_INTERNAL_ERROR"),
    (507_899, "ACL_ERROR_DRV_INTERNAL_ERROR"),
];

/// The name of `code` as functions of `layer` return it.
pub fn error_name(layer: Layer, code: i32) -> Option<&'static str> {
    let table = match layer {
        Layer::CudaRuntime => CUDA_RUNTIME,
        Layer::CudaDriver => CUDA_DRIVER,
        Layer::Hip => HIP,
        Layer::Acl => ACL,
        Layer::Nccl | Layer::Hccl => return None,
    };
    table.binary_search_by_key(&code, |(code, _)| *code).ok().map(|at| table[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_rise_so_that_every_one_is_found() {
        for table in [CUDA_RUNTIME, CUDA_DRIVER, HIP, ACL] {
            assert!(table.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
    }

    #[test]
    fn one_number_has_the_name_of_its_interface() {
        for (layer, code, expected) in [
            (Layer::CudaRuntime, 2, Some("cudaErrorMemoryAllocation")),
            (Layer::CudaRuntime, 35, Some("cudaErrorInsufficientDriver")),
            (Layer::CudaDriver, 2, Some("CUDA_ERROR_OUT_OF_MEMORY")),
            (Layer::Hip, 2, Some("hipErrorOutOfMemory")),
            (Layer::Acl, 207_001, Some("ACL_ERROR_RT_MEMORY_ALLOCATION")),
            (Layer::Acl, 2, None),
            (Layer::CudaRuntime, -7, None),
            (Layer::Nccl, 2, None),
        ] {
            assert_eq!(error_name(layer, code), expected, "{layer:?} {code}");
        }
    }
}

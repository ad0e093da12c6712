//! t
#[test] fn t() { let _ = kernels::cuda::emulated::EmulatedDevice::fault_ids(); assert_eq!(kernels::cuda::emulated::EmulatedDevice::fault_ids().len(), 3);}

// SPDX-License-Identifier: Apache-2.0

//! The deterministic simulator over host::core: virtual time, simulated disk and network.

// SPDX-License-Identifier: Apache-2.0

//! Real processes under load, killed and restarted.

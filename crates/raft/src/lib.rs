// SPDX-License-Identifier: Apache-2.0

//! One group's consensus as a pure value.

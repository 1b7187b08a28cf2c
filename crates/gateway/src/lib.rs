// SPDX-License-Identifier: Apache-2.0

//! The outer doors: HTTP routes, errors with outcomes, limits.

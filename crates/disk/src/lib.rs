// SPDX-License-Identifier: Apache-2.0

//! The seam to files: a real disk, a memory disk that can fail, atomic replace.

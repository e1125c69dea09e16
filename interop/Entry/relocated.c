/*
 * Fills the end of the region that is read-only after relocation (RELRO). On arm64 its length is a multiple of 64 KiB, so that kernels of
 * every page size can protect it. lld before version 18 only rounds the length up: the last part has no memory, and libc's mprotect fails
 * with ENOMEM or affects another mapping. The filling takes no space in the file, and no memory because it is never touched.
 */
#ifdef __aarch64__
static char relro_end[65536] __attribute__((section(".bss.rel.ro"), aligned(65536), used, retain));
#endif

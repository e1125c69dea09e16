/*
 * The end of what is read-only after relocation (RELRO). On arm64 it is a multiple of 64 KiB, so that kernels of every page size can protect it. lld before version 18
 * only rounds the number up: no memory lies in the last part, and libc's mprotect fails with ENOMEM or reaches another mapping. This fills it. It takes
 * no space in the file, and no memory because it is never touched.
 */
#ifdef __aarch64__
static char relro_end[65536] __attribute__((section(".bss.rel.ro"), aligned(65536), used, retain));
#endif

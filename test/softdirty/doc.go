// Package softdirty runs tests in a virtual machine whose kernel tracks writes to memory (CONFIG_MEM_SOFT_DIRTY), which the
// kernels of many test machines do not. QEMU emulates it, without KVM; it boots in some 5 s, and programs run 10 to 20
// times slower than on the machine itself.
//
// The VM is a copy of a Debian root with runc, CRIU and kernel modules, which `bed prepare` makes; what a run writes is thrown
// away. The program comes with the initramfs. Its output comes back over one serial port, its exit status over another, so
// that nothing it prints can be taken for its end. Whatever ends this process or the context ends the VM.
package softdirty

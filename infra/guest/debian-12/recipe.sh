# shellcheck shell=bash disable=SC2034
# What the image debian-12 is made of; ../build reads it. To make another image, copy this folder and change it: the
# image's digest covers the recipe's folder, ../build and the programs beside it.

suite=bookworm
kernel_package="linux-image-cloud-$(dpkg --print-architecture)"

# minbase, and:
packages=(
  systemd-sysv         # the init
  qemu-guest-agent     # all that Berth asks of a guest
  usr-is-merged        # else usrmerge comes, with the whole of Perl
  kmod                 # a task may need a module that the initrd doesn't load
  iproute2 iputils-ping procps
  openssh-server       # not enabled, and without host keys: whoever wants it brings them, and starts it
)

# Sparse: what an overlay may grow to.
virtual_mib=2048

# What the initrd loads, with what they depend on, before the root is mounted. There is no udev to load anything later.
# pvpanic: the host learns of a panic.
initrd_modules=(virtio_pci virtio_blk virtio_net virtio_console virtio_rng ext4 pvpanic-mmio)

# What takes time in an emulated machine and gains nothing in one that lives for one task of one owner:
# security modules and mitigations between its own processes, probing of hardware that a QEMU machine doesn't have,
# self-tests. net.ifnames=0 keeps eth0 the name of the one network device.
cmdline=(
  root=/dev/vda rw console=ttyS0 quiet net.ifnames=0
  lsm= selinux=0 audit=0 mitigations=off
  random.trust_cpu=1 cryptomgr.notests
  tsc=reliable no_timer_check 8250.nr_uarts=1 i8042.noaux i8042.nokbd
)

# Nothing waits for these, and each costs a start-up of 256 MiB under emulation some hundredths of a second.
masked_units=(
  apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer
  systemd-tmpfiles-clean.timer
  getty.target getty-static.service getty@tty1.service serial-getty@ttyS0.service console-getty.service
  systemd-logind.service systemd-user-sessions.service dbus.socket dbus.service
  # udev isn't installed: its device units never appear
  systemd-udevd.service systemd-udev-trigger.service systemd-udev-settle.service
  systemd-udevd-control.socket systemd-udevd-kernel.socket
  # our init has mounted the root, as it is to be
  systemd-remount-fs.service systemd-fsck-root.service
  # seed, clock and names come from the host, see berth-identity
  systemd-random-seed.service systemd-timesyncd.service systemd-machine-id-commit.service systemd-firstboot.service
  systemd-modules-load.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount systemd-pstore.service
  systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-journal-flush.service
  systemd-journal-catalog-update.service systemd-hwdb-update.service ldconfig.service systemd-boot-system-token.service
  systemd-ask-password-console.path systemd-ask-password-wall.path
  dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount
  sys-fs-fuse-connections.mount
  modprobe@configfs.service modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service modprobe@dm_mod.service
  modprobe@loop.service kmod-static-nodes.service
  # the image has its users and its devices
  systemd-sysusers.service systemd-tmpfiles-setup-dev.service
  # berth-agent.service starts it, earlier
  qemu-guest-agent.service
)
masked_generators=(
  systemd-bless-boot-generator systemd-cryptsetup-generator systemd-debug-generator systemd-fstab-generator
  systemd-getty-generator systemd-gpt-auto-generator systemd-hibernate-resume-generator systemd-integritysetup-generator
  systemd-rc-local-generator systemd-run-generator systemd-system-update-generator systemd-sysv-generator
  systemd-veritysetup-generator
)

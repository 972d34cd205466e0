/*
 * The first program of a guest, and all there is in its initrd: loads the modules that /modules names, in that order,
 * mounts /dev/vda as the root and becomes its init. Debian's own initrd does the same in two more seconds under
 * emulation, most of them for unpacking it and for waiting for udev.
 *
 * What goes wrong is said on the console, and the machine is switched off: the host then sees at once that it is gone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void give_up(const char *what, const char *which) {
  fprintf(stderr, "berth-init: %s %s: %s\n", what, which, strerror(errno));
  sync();
  reboot(RB_POWER_OFF);
  for (;;) pause();
}

static void load(const char *path) {
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) give_up("can't open", path);
  /* Some are built in, in other kernels than the one that named them. */
  if (syscall(SYS_finit_module, file, "", 0) != 0 && errno != EEXIST) give_up("can't load", path);
  close(file);
  /* The root file system hides the initrd, but its memory stays in use until the file is gone. */
  unlink(path);
}

static void load_modules(void) {
  FILE *list = fopen("/modules", "r");
  char path[256];
  if (list == NULL) give_up("can't open", "/modules");
  while (fgets(path, sizeof path, list) != NULL) {
    path[strcspn(path, "\n")] = '\0';
    if (path[0] != '\0') load(path);
  }
  fclose(list);
}

static void mount_root(void) {
  /* Ten seconds: a virtio disk appears within milliseconds of its driver, on a host that has time for its guests. */
  for (int tries = 0; mount("/dev/vda", "/root", "ext4", MS_NOATIME, NULL) != 0; tries++) {
    if (errno != ENOENT && errno != ENXIO && errno != ENODEV) give_up("can't mount", "/dev/vda");
    if (tries == 10000) give_up("waited 10 s for", "/dev/vda");
    usleep(1000);
  }
}

int main(int argc, char **argv, char **environment) {
  (void)argc;
  mkdir("/dev", 0755);
  mkdir("/root", 0755);
  if (mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, NULL) != 0 && errno != EBUSY) give_up("can't mount", "/dev");
  load_modules();
  mount_root();
  unlink("/init");
  if (mount("/dev", "/root/dev", NULL, MS_MOVE, NULL) != 0) give_up("can't move", "/dev");
  if (chdir("/root") != 0 || mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0 || chdir("/") != 0)
    give_up("can't change to", "the root file system");
  argv[0] = "/sbin/init";
  execve(argv[0], argv, environment);
  give_up("can't start", argv[0]);
}

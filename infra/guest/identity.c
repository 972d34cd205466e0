/*
 * berth-identity: gives a running guest everything that makes it itself, from records on standard input, so that a
 * guest needs one guest-exec and no shell: 0.2 s under emulation, where the same in a script takes 0.65 s.
 *
 *   seed HEX                 credits 1 to 512 bytes to the kernel's generator and has it reseed at once
 *   time SECONDS[.FRACTION]  sets the clock, UTC
 *   host NAME                host name, now and in /etc/hostname
 *   mid ID                   32 hexadecimal digits: /etc/machine-id
 *   boot UUID                what /proc/sys/kernel/random/boot_id says from now on
 *   mac DEV ADDRESS          six hexadecimal bytes, parted by colons
 *   addr DEV IP/PLEN GW      DEV's one IPv4 address and the default route, "-" for none; brings DEV up
 *   mtu DEV N                68 to 65535
 *   mkdir PATH MODE          and the folders above it; MODE is octal, of the last one
 *   file PATH MODE LEN       replaces the file with the LEN bytes that follow the newline, unless it has them already; where
 *                            its file system is full or read-only, another one in memory is laid over it
 *   mount DEV DIR [FSTYPE]   ext4 unless said; waits 10 s for DEV and makes DIR
 *   hup PIDFILE              SIGHUP to the process whose pid the file holds
 *
 * A record is one line, its words parted by one space; empty lines are skipped. The whole input is read and checked
 * before the first record is applied; repeating it is harmless. Exit 0 and "ok" when all of it is so; 1 when a record
 * could not be applied (those before it are), 2 when the input is not valid (nothing is applied). Standard error then
 * names the record: "berth-identity: record 3 (addr): …".
 *
 *   berth-identity wait      in a machine that becomes a template
 *
 * applies its records as above, empties what an identity fills, and leaves a process that waits for the identity at the
 * virtio port org.berth.identity.0. Whoever is made of the template thus has it running at its first instruction, with
 * nothing to start and no page to fetch: an emulated machine translates whatever it runs for the first time, and that is
 * what a start from a template takes. It reads one line with two lengths, and so many bytes of records in two parts;
 * answers "ok HOSTNAME MACHINEID" after the first part, or what went wrong; applies the second, and ends. From the first
 * moment to that end there is /run/berth/adopting, which holds what went wrong with the second part.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/random.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

enum { input_max = 4 << 20, words_max = 5, seed_max = 512, device_wait_ms = 10000 };

static char input[input_max + 1];

/* Whether this is the process that a template has waiting. */
static bool waits;

/* The record at hand: its number, its words, and, of `file`, its bytes. */
struct record {
  int number;
  int count;
  char *word[words_max];
  const char *bytes;
  size_t length;
};

static _Noreturn void stop(int status, const struct record *r, const char *format, ...) {
  va_list args;
  fputs("berth-identity: ", stderr);
  if (r != NULL) fprintf(stderr, "record %d (%.32s): ", r->number, r->word[0]);
  va_start(args, format);
  vfprintf(stderr, format, args);
  va_end(args);
  fputc('\n', stderr);
  exit(status);
}

#define INVALID(r, ...) stop(2, r, __VA_ARGS__)
#define FAILED(r, what) stop(1, r, "%s: %s", what, strerror(errno))

/* ---- words ---- */

static long number(const struct record *r, const char *word, int base, long least, long most) {
  char *end;
  errno = 0;
  long value = strtol(word, &end, base);
  if (!isxdigit((unsigned char)word[0]) || *end != '\0' || errno != 0 || value < least || value > most)
    INVALID(r, "%.64s is not a number from %ld to %ld (base %d)", word, least, most, base);
  return value;
}

static const char *path(const struct record *r, const char *word) {
  if (word[0] != '/' || strlen(word) >= PATH_MAX - 16 || strstr(word, "/../") != NULL)
    INVALID(r, "%.64s is not an absolute path", word);
  return word;
}

static const char *device_name(const struct record *r, const char *word) {
  if (strlen(word) >= IFNAMSIZ || strchr(word, '/') != NULL) INVALID(r, "%.64s is not the name of a network device", word);
  return word;
}

static struct in_addr address(const struct record *r, const char *word) {
  struct in_addr value;
  if (inet_pton(AF_INET, word, &value) != 1) INVALID(r, "%.64s is not an IPv4 address", word);
  return value;
}

static int hex_digit(const struct record *r, char digit) {
  if (!isxdigit((unsigned char)digit)) INVALID(r, "not hexadecimal");
  return isdigit((unsigned char)digit) ? digit - '0' : tolower((unsigned char)digit) - 'a' + 10;
}

/* ---- files ---- */

static void make_folder(const struct record *r, const char *folder) {
  char part[PATH_MAX];
  struct stat found;
  snprintf(part, sizeof part, "%s", folder);
  for (char *slash = part + 1; slash != NULL && *slash != '\0'; slash++) {
    slash = strchr(slash, '/');
    if (slash != NULL) *slash = '\0';
    if (mkdir(part, 0755) != 0 && errno != EEXIST) FAILED(r, part);
    if (slash == NULL) break;
    *slash = '/';
  }
  if (stat(folder, &found) != 0) FAILED(r, folder);
  if (!S_ISDIR(found.st_mode)) stop(1, r, "%s is there, and is not a folder", folder);
}

/*
 * What is empty, and has its mode, is filled where it is: in a machine that was prepared for it (see `wait`) nobody has
 * read it, and a new file takes its file system ten times the work. false: it isn't so.
 */
static bool fill_empty(const struct record *r, const char *target, const char *bytes, size_t length, mode_t mode) {
  struct stat found;
  if (!waits) return false;
  int file = open(target, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
  if (file < 0) return false;
  bool empty = fstat(file, &found) == 0 && found.st_mode == (S_IFREG | mode) && found.st_size == 0;
  if (empty && write(file, bytes, length) != (ssize_t)length) FAILED(r, target);
  if (close(file) != 0) FAILED(r, target);
  return empty;
}

/* What is so already is not written again: a guest that was stopped for a while runs on with what it had. */
static bool has_content(const char *target, const char *bytes, size_t length, mode_t mode) {
  struct stat found;
  char part[4096];
  int file = open(target, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (file < 0) return false;
  bool same = fstat(file, &found) == 0 && found.st_mode == (S_IFREG | mode) && (size_t)found.st_size == length;
  for (size_t done = 0; same && done < length;) {
    ssize_t more = read(file, part, sizeof part);
    same = more > 0 && (size_t)more <= length - done && memcmp(part, bytes + done, (size_t)more) == 0;
    if (same) done += (size_t)more;
  }
  close(file);
  return same;
}

/* Written beside it and renamed: readers see the old file or the new one. Returns why not, or 0. */
static int replace_file(const char *partial, const char *target, const char *bytes, size_t length, mode_t mode) {
  int file = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (file < 0) return errno;
  int why = 0;
  for (size_t done = 0; why == 0 && done < length;) {
    ssize_t more = write(file, bytes + done, length - done);
    if (more < 0 && errno != EINTR) why = errno;
    if (more > 0) done += (size_t)more;
  }
  if (why == 0 && fchmod(file, mode) != 0) why = errno;
  if (close(file) != 0 && why == 0) why = errno;
  /* One that was laid over before is uncovered: a mount can't be renamed onto. */
  if (why == 0 && rename(partial, target) != 0 && (errno != EBUSY || umount2(target, MNT_DETACH) != 0 || rename(partial, target) != 0))
    why = errno;
  if (why != 0) unlink(partial);
  return why;
}

static const char *run_folder = "/run/berth";

static void make_run_folder(const struct record *r) {
  if (mkdir(run_folder, 0700) != 0 && errno != EEXIST) FAILED(r, run_folder);
}

/* A root file system that is full, or read-only, takes no file: it lies in memory then, over the one that is there. */
static void lay_over(const struct record *r, const char *target, const char *bytes, size_t length, mode_t mode) {
  char cover[PATH_MAX], partial[PATH_MAX + 8];
  make_run_folder(r);
  snprintf(cover, sizeof cover, "%s/over%s", run_folder, target);
  for (char *at = cover + strlen(run_folder) + 1; *at != '\0'; at++)
    if (*at == '/') *at = '_';
  snprintf(partial, sizeof partial, "%s.part", cover);
  errno = replace_file(partial, cover, bytes, length, mode);
  if (errno != 0) FAILED(r, cover);
  if (umount2(target, MNT_DETACH) != 0 && errno != EINVAL) FAILED(r, target);
  if (mount(cover, target, NULL, MS_BIND, NULL) != 0) FAILED(r, target);
}

static void write_file(const struct record *r, const char *target, const char *bytes, size_t length, mode_t mode) {
  char partial[PATH_MAX];
  if (fill_empty(r, target, bytes, length, mode) || has_content(target, bytes, length, mode)) return;
  snprintf(partial, sizeof partial, "%s.berth", target);
  int why = replace_file(partial, target, bytes, length, mode);
  if (why == 0) return;
  if (why == ENOSPC || why == EDQUOT || why == EROFS) return lay_over(r, target, bytes, length, mode);
  errno = why;
  FAILED(r, target);
}

static void write_line(const struct record *r, const char *target, const char *text, mode_t mode) {
  char line[PATH_MAX];
  int length = snprintf(line, sizeof line, "%s\n", text);
  write_file(r, target, line, (size_t)length, mode);
}

/* ---- one function a record: checks its words, and applies them when it is told to ---- */

static void set_seed(struct record *r, bool apply) {
  struct {
    struct rand_pool_info info;
    unsigned char bytes[seed_max];
  } pool;
  size_t digits = strlen(r->word[1]);
  if (digits % 2 != 0 || digits > 2 * seed_max) INVALID(r, "expected an even number of digits, at most %d", 2 * seed_max);
  for (size_t i = 0; i < digits / 2; i++)
    pool.bytes[i] = (unsigned char)(hex_digit(r, r->word[1][2 * i]) << 4 | hex_digit(r, r->word[1][2 * i + 1]));
  if (!apply) return;
  memmove(pool.info.buf, pool.bytes, digits / 2);
  pool.info.buf_size = (int)(digits / 2);
  pool.info.entropy_count = (int)(digits / 2) * 8;
  int generator = open("/dev/urandom", O_RDWR | O_CLOEXEC);
  if (generator < 0) FAILED(r, "/dev/urandom");
  if (ioctl(generator, RNDADDENTROPY, &pool) != 0) FAILED(r, "RNDADDENTROPY");
  /* Else it would go on for up to a minute with what a saved machine's other copies have as well. */
  if (ioctl(generator, RNDRESEEDCRNG) != 0) FAILED(r, "RNDRESEEDCRNG");
  close(generator);
}

static void set_time(struct record *r, bool apply) {
  struct timespec now = {0};
  char *fraction = strchr(r->word[1], '.');
  if (fraction != NULL) {
    *fraction++ = '\0';
    size_t digits = strlen(fraction);
    if (digits < 1 || digits > 9 || strspn(fraction, "0123456789") != digits) INVALID(r, "a fraction has 1 to 9 digits");
    now.tv_nsec = atol(fraction);
    for (size_t i = digits; i < 9; i++) now.tv_nsec *= 10;
  }
  now.tv_sec = number(r, r->word[1], 10, 0, LONG_MAX);
  /* The input is gone over twice. */
  if (fraction != NULL) fraction[-1] = '.';
  if (apply && clock_settime(CLOCK_REALTIME, &now) != 0) FAILED(r, "clock_settime");
}

static void set_host(struct record *r, bool apply) {
  const char *name = r->word[1];
  size_t length = strlen(name);
  if (length > 64 || name[0] == '-' || name[0] == '.') INVALID(r, "%.80s is not a host name", name);
  for (size_t i = 0; i < length; i++)
    if (!isalnum((unsigned char)name[i]) && name[i] != '-' && name[i] != '.') INVALID(r, "%.80s is not a host name", name);
  if (!apply) return;
  if (sethostname(name, length) != 0) FAILED(r, "sethostname");
  write_line(r, "/etc/hostname", name, 0644);
}

static const char *machine_id_file = "/etc/machine-id";

/* The image's own is empty, and systemd has mounted a random one over it, which a file can't be renamed onto. */
static void uncover_machine_id(const struct record *r) {
  if (umount2(machine_id_file, MNT_DETACH) != 0 && errno != EINVAL && errno != ENOENT) FAILED(r, machine_id_file);
}

static void set_machine_id(struct record *r, bool apply) {
  if (strlen(r->word[1]) != 32) INVALID(r, "expected 32 hexadecimal digits");
  for (int i = 0; i < 32; i++) hex_digit(r, r->word[1][i]);
  if (!apply) return;
  if (!waits) uncover_machine_id(r);
  write_line(r, machine_id_file, r->word[1], 0444);
}

/* The kernel chooses it once a boot, so all that came of one saved machine have the same: another is laid over it. */
static const char *boot_id_file = "/run/berth/boot_id";

/*
 * One at a time: a guest that boots applies its records by itself, while its host sends the same ones, and each would
 * rename what the other has not written yet. Whoever dies gives its turn back. Returns what ends the turn when closed.
 */
static int take_turn(void) {
  static const struct record none = {.word = {(char *)"turn"}};
  static const char *turn = "/run/berth/turn";
  make_run_folder(&none);
  int file = open(turn, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0) FAILED(&none, turn);
  while (flock(file, LOCK_EX) != 0)
    if (errno != EINTR) FAILED(&none, turn);
  return file;
}

static void lay_over_boot_id(const struct record *r) {
  static const char *kernels = "/proc/sys/kernel/random/boot_id";
  if (umount2(kernels, MNT_DETACH) != 0 && errno != EINVAL) FAILED(r, kernels);
  if (mount(boot_id_file, kernels, NULL, MS_BIND, NULL) != 0) FAILED(r, kernels);
}

static void set_boot_id(struct record *r, bool apply) {
  const char *id = r->word[1];
  if (strlen(id) != 36) INVALID(r, "expected a UUID");
  for (int i = 0; i < 36; i++) {
    bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    if (dash ? id[i] != '-' : !isxdigit((unsigned char)id[i])) INVALID(r, "%.40s is not a UUID", id);
  }
  if (!apply) return;
  make_run_folder(r);
  write_line(r, boot_id_file, id, 0444);
  if (!waits) lay_over_boot_id(r);
}

static void interface_call(const struct record *r, int s, unsigned long call, struct ifreq *request, const char *what) {
  if (ioctl(s, call, request) != 0) FAILED(r, what);
}

static struct ifreq request_for(const char *device) {
  struct ifreq request = {0};
  snprintf(request.ifr_name, sizeof request.ifr_name, "%s", device);
  return request;
}

static void put_address(struct sockaddr *target, struct in_addr value) {
  struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr = value};
  memcpy(target, &in, sizeof in);
}

static void set_default_route(const struct record *r, int s, struct in_addr gateway, char *device, bool wanted) {
  struct rtentry route = {.rt_flags = RTF_UP, .rt_dev = device};
  struct in_addr any = {0};
  put_address(&route.rt_dst, any);
  put_address(&route.rt_genmask, any);
  put_address(&route.rt_gateway, any);
  while (ioctl(s, SIOCDELRT, &route) == 0) continue;
  if (errno != ESRCH) FAILED(r, "removing the default route");
  if (!wanted) return;
  route.rt_flags |= RTF_GATEWAY;
  put_address(&route.rt_gateway, gateway);
  if (ioctl(s, SIOCADDRT, &route) != 0) FAILED(r, "adding the default route");
}

static void set_address(struct record *r, bool apply) {
  char *device = r->word[1];
  char *slash = strchr(r->word[2], '/');
  device_name(r, device);
  if (slash == NULL) INVALID(r, "expected IP/PLEN");
  *slash = '\0';
  struct in_addr own = address(r, r->word[2]);
  long bits = number(r, slash + 1, 10, 1, 32);
  *slash = '/';
  bool routed = strcmp(r->word[3], "-") != 0;
  struct in_addr gateway = routed ? address(r, r->word[3]) : (struct in_addr){0};
  if (!apply) return;

  int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (s < 0) FAILED(r, "socket");
  struct ifreq request = request_for(device);
  put_address(&request.ifr_addr, own);
  interface_call(r, s, SIOCSIFADDR, &request, "setting the address");
  put_address(&request.ifr_netmask, (struct in_addr){htonl((uint32_t)(0xffffffffULL << (32 - bits)))});
  interface_call(r, s, SIOCSIFNETMASK, &request, "setting the netmask");
  request = request_for(device);
  interface_call(r, s, SIOCGIFFLAGS, &request, "reading the flags");
  request.ifr_flags |= IFF_UP | IFF_RUNNING;
  interface_call(r, s, SIOCSIFFLAGS, &request, "bringing the device up");
  set_default_route(r, s, gateway, device, routed);
  close(s);
}

/* A machine that was saved goes on with the address that it had, whatever its new network card says. */
static void set_mac(struct record *r, bool apply) {
  struct ifreq request = request_for(device_name(r, r->word[1]));
  const char *text = r->word[2];
  if (strlen(text) != 17) INVALID(r, "expected six bytes, parted by colons");
  for (int i = 0; i < 6; i++) {
    const char *byte = text + 3 * i;
    if (i < 5 && byte[2] != ':') INVALID(r, "expected six bytes, parted by colons");
    request.ifr_hwaddr.sa_data[i] = (char)(hex_digit(r, byte[0]) << 4 | hex_digit(r, byte[1]));
  }
  if (request.ifr_hwaddr.sa_data[0] & 1) INVALID(r, "%.20s is an address of groups", text);
  if (!apply) return;
  int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (s < 0) FAILED(r, "socket");
  request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
  interface_call(r, s, SIOCSIFHWADDR, &request, "setting the hardware address");
  close(s);
}

static void set_mtu(struct record *r, bool apply) {
  struct ifreq request = request_for(device_name(r, r->word[1]));
  request.ifr_mtu = (int)number(r, r->word[2], 10, 68, 65535);
  if (!apply) return;
  int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (s < 0) FAILED(r, "socket");
  interface_call(r, s, SIOCSIFMTU, &request, "setting the MTU");
  close(s);
}

static void put_folder(struct record *r, bool apply) {
  const char *folder = path(r, r->word[1]);
  mode_t mode = (mode_t)number(r, r->word[2], 8, 0, 07777);
  struct stat found;
  if (!apply || (stat(folder, &found) == 0 && found.st_mode == (S_IFDIR | mode))) return;
  make_folder(r, folder);
  if (chmod(folder, mode) != 0) FAILED(r, folder);
}

static void put_file(struct record *r, bool apply) {
  const char *target = path(r, r->word[1]);
  mode_t mode = (mode_t)number(r, r->word[2], 8, 0, 07777);
  if (apply) write_file(r, target, r->bytes, r->length, mode);
}

static bool is_mounted(const char *device, const char *folder) {
  struct stat of_device, of_folder;
  return stat(device, &of_device) == 0 && stat(folder, &of_folder) == 0 && S_ISBLK(of_device.st_mode) &&
         of_device.st_rdev == of_folder.st_dev;
}

static void put_mount(struct record *r, bool apply) {
  const char *device = path(r, r->word[1]);
  const char *folder = path(r, r->word[2]);
  const char *type = r->count > 3 ? r->word[3] : "ext4";
  if (!apply || is_mounted(device, folder)) return;
  make_folder(r, folder);
  /* A disk that was plugged in a moment ago isn't there yet; one that somebody mounts at this moment is busy. */
  for (int waited = 0; mount(device, folder, type, MS_NOATIME | MS_NODEV | MS_NOSUID, NULL) != 0; waited += 10) {
    int why = errno;
    if (why == EBUSY && is_mounted(device, folder)) return;
    errno = why;
    if ((why != ENOENT && why != ENXIO && why != EBUSY) || waited >= device_wait_ms) FAILED(r, device);
    usleep(10000);
  }
}

static void send_hup(struct record *r, bool apply) {
  const char *file = path(r, r->word[1]);
  if (!apply) return;
  FILE *stream = fopen(file, "re");
  long pid = 0;
  if (stream == NULL) FAILED(r, file);
  if (fscanf(stream, "%ld", &pid) != 1 || pid < 2 || pid > INT_MAX) stop(1, r, "%s holds no pid", file);
  fclose(stream);
  if (kill((pid_t)pid, SIGHUP) != 0) FAILED(r, "kill");
}

static const struct {
  const char *name;
  int least, most; /* words, its name included */
  void (*handle)(struct record *, bool);
} kinds[] = {
    {"seed", 2, 2, set_seed},   {"time", 2, 2, set_time},    {"host", 2, 2, set_host},  {"mid", 2, 2, set_machine_id},
    {"boot", 2, 2, set_boot_id}, {"mac", 3, 3, set_mac},
    {"addr", 4, 4, set_address}, {"mtu", 3, 3, set_mtu},      {"mkdir", 3, 3, put_folder}, {"file", 4, 4, put_file},
    {"mount", 3, 4, put_mount}, {"hup", 2, 2, send_hup},
};

/* ---- the input ---- */

static void split(struct record *r, char *line) {
  r->count = 0;
  for (char *word = line; word != NULL;) {
    char *space = strchr(word, ' ');
    if (r->count == words_max) INVALID(r, "too many words");
    r->word[r->count++] = word;
    if (space != NULL) *space++ = '\0';
    if (*word == '\0') INVALID(r, "words are parted by one space");
    word = space;
  }
}

/* Undoes split: the second pass reads the same text. */
static void join(const struct record *r) {
  for (int i = 1; i < r->count; i++) r->word[i][-1] = ' ';
}

static void handle(struct record *r, bool apply) {
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    if (strcmp(kinds[i].name, r->word[0]) != 0) continue;
    if (r->count < kinds[i].least || r->count > kinds[i].most) INVALID(r, "has %d words", r->count);
    kinds[i].handle(r, apply);
    return;
  }
  INVALID(r, "no such record");
}

static void go_over(char *records, size_t size, bool apply) {
  struct record r = {.word = {(char *)"-"}};
  for (char *at = records, *end = records + size; at < end;) {
    char *newline = memchr(at, '\n', (size_t)(end - at));
    char *next = newline == NULL ? end : newline + 1;
    r.number++;
    r.word[0] = at;
    if (newline == NULL) INVALID(&r, "has no end: the input is cut off");
    *newline = '\0';
    if (strlen(at) != (size_t)(newline - at)) INVALID(&r, "has a NUL in it");
    if (*at != '\0') {
      split(&r, at);
      if (strcmp(r.word[0], "file") == 0 && r.count == 4) {
        r.bytes = next;
        r.length = (size_t)number(&r, r.word[3], 10, 0, input_max);
        if (r.length > (size_t)(end - next)) INVALID(&r, "announces more bytes than there are");
        next += r.length;
      }
      handle(&r, apply);
      join(&r);
    }
    *newline = '\n';
    at = next;
  }
}

static size_t read_input(void) {
  size_t size = 0;
  for (;;) {
    ssize_t more = read(STDIN_FILENO, input + size, sizeof input - size);
    if (more < 0 && errno == EINTR) continue;
    if (more < 0) stop(1, NULL, "standard input: %s", strerror(errno));
    if (more == 0) return size;
    size += (size_t)more;
    if (size > input_max) stop(2, NULL, "more than %d bytes of input", input_max);
  }
}


/* ---- waiting in a template ---- */

static const char *port_name = "org.berth.identity.0", *adopting_file = "/run/berth/adopting";

enum { header_max = 32, priority = 50 };

static int open_port(void) {
  char place[300], name[64];
  DIR *ports = opendir("/sys/class/virtio-ports");
  if (ports == NULL) stop(1, NULL, "no virtio ports: %s", strerror(errno));
  for (struct dirent *entry; (entry = readdir(ports)) != NULL;) {
    snprintf(place, sizeof place, "/sys/class/virtio-ports/%s/name", entry->d_name);
    int file = open(place, O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? 0 : read(file, name, sizeof name - 1);
    if (file >= 0) close(file);
    if (length <= 0) continue;
    name[length] = '\0';
    name[strcspn(name, "\n")] = '\0';
    if (strcmp(name, port_name) != 0) continue;
    snprintf(place, sizeof place, "/dev/%s", entry->d_name);
    int port = open(place, O_RDWR | O_CLOEXEC);
    if (port < 0) stop(1, NULL, "%s: %s", place, strerror(errno));
    closedir(ports);
    return port;
  }
  stop(1, NULL, "there is no port %s", port_name);
}

/* What an identity's records fill, so that there is nothing to make any more. Their files are the caller's to empty. */
static void prepare(void) {
  const struct record none = {.word = {(char *)"wait"}};
  uncover_machine_id(&none);
  write_file(&none, machine_id_file, "", 0, 0444);
  write_file(&none, "/etc/hostname", "", 0, 0644);
  make_run_folder(&none);
  write_file(&none, boot_id_file, "", 0, 0444);
  lay_over_boot_id(&none);
  write_file(&none, adopting_file, "", 0, 0600);
}

static void touch(char *from, char *to) {
  for (volatile char *at = from; at < (volatile char *)to; at += 4096) *at = *at;
}

/* All that will be used is in memory, and this process's own: the guest has no page to fetch or to copy. */
static void settle_in(void) {
  extern char __executable_start, etext, __data_start, end;
  char stack[65536];
  volatile char seen = 0;
  for (char *at = &__executable_start; at < &etext; at += 4096) seen ^= *at;
  touch(&__data_start, input);
  touch(input, input + 65536);
  touch(input + input_max, &end);
  memset(stack, seen, sizeof stack);
  __asm__ volatile("" : : "r"(stack) : "memory");
}

/* As long as the port has nobody at its other end, reading it says that it has ended; SIGIO comes when that changes. */
static size_t read_some(int port, size_t size) {
  const struct timespec patience = {.tv_sec = 1};
  sigset_t news;
  sigemptyset(&news);
  sigaddset(&news, SIGIO);
  for (;;) {
    if (size >= sizeof input) stop(2, NULL, "more than %d bytes of input", input_max);
    ssize_t more = read(port, input + size, sizeof input - size);
    if (more > 0) return size + (size_t)more;
    if (more < 0 && errno != EINTR && errno != EAGAIN) stop(1, NULL, "%s: %s", port_name, strerror(errno));
    sigtimedwait(&news, NULL, &patience);
  }
}

/* Both parts, moved to the beginning of the input; returns the length of the first. */
static size_t read_parts(int port, size_t *both) {
  char *newline, *rest;
  size_t size = 0;
  while ((newline = memchr(input, '\n', size)) == NULL) {
    if (size > header_max) stop(2, NULL, "expected two lengths");
    size = read_some(port, size);
  }
  *newline = '\0';
  unsigned long first = strtoul(input, &rest, 10), second = strtoul(rest, &rest, 10);
  if (*rest != '\0' || first > input_max || second > input_max - first) stop(2, NULL, "%.32s are not two lengths", input);
  size_t header = (size_t)(newline + 1 - input);
  *both = first + second;
  if (header + *both > input_max) stop(2, NULL, "more than %d bytes of input", input_max);
  while (size < header + *both) size = read_some(port, size);
  memmove(input, input + header, *both);
  return first;
}

/* What this machine is by now, as it says itself. */
static void answer(int port) {
  char said[256], name[65], id[33] = "";
  int file = open(machine_id_file, O_RDONLY | O_CLOEXEC);
  if (gethostname(name, sizeof name) != 0 || file < 0 || read(file, id, 32) != 32)
    stop(1, NULL, "reading the identity back: %s", strerror(errno));
  close(file);
  int length = snprintf(said, sizeof said, "ok %s %s\n", name, id);
  if (write(port, said, (size_t)length) != length) stop(1, NULL, "%s: %s", port_name, strerror(errno));
}

static _Noreturn void become_somebody(int port) {
  const struct sched_param first_of_all = {.sched_priority = priority};
  int adopting = open(adopting_file, O_WRONLY | O_APPEND | O_CLOEXEC);
  waits = true;
  setsid();
  /* What else a machine does when it finds that time has passed can wait until it knows who it is. */
  sched_setscheduler(0, SCHED_FIFO, &first_of_all);
  if (adopting < 0 || dup2(port, STDERR_FILENO) < 0) _exit(1);
  settle_in();

  size_t both, first = read_parts(port, &both);
  go_over(input, first, false);
  go_over(input + first, both - first, false);
  go_over(input, first, true);
  answer(port);
  dup2(adopting, STDERR_FILENO);
  go_over(input + first, both - first, true);
  unlink(adopting_file);
  _exit(0);
}

static int wait_for_identity(void) {
  sigset_t news;
  prepare();
  int port = open_port(), nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
  sigemptyset(&news);
  sigaddset(&news, SIGIO);
  if (nothing < 0 || sigprocmask(SIG_BLOCK, &news, NULL) != 0) stop(1, NULL, "/dev/null: %s", strerror(errno));
  pid_t child = fork();
  if (child < 0) stop(1, NULL, "fork: %s", strerror(errno));
  if (child == 0) {
    dup2(nothing, STDIN_FILENO);
    dup2(nothing, STDOUT_FILENO);
    if (fcntl(port, F_SETOWN, getpid()) != 0 || fcntl(port, F_SETFL, O_ASYNC) != 0) _exit(1);
    become_somebody(port);
  }
  return 0;
}

int main(int count, char **words) {
  bool to_wait = count == 2 && strcmp(words[1], "wait") == 0;
  if (count != 1 && !to_wait) stop(2, NULL, "expected wait, or nothing");
  size_t size = read_input();
  go_over(input, size, false);
  int turn = take_turn();
  go_over(input, size, true);
  close(turn);
  if (to_wait) wait_for_identity();
  puts("ok");
  return 0;
}

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
 *   file PATH MODE LEN       replaces the file with the LEN bytes that follow the newline
 *   mount DEV DIR [FSTYPE]   ext4 unless said; waits 10 s for DEV and makes DIR
 *   hup PIDFILE              SIGHUP to the process whose pid the file holds
 *
 * A record is one line, its words parted by one space; empty lines are skipped. The whole input is read and checked
 * before the first record is applied; repeating it is harmless. Exit 0 and "ok" when all of it is so; 1 when a record
 * could not be applied (those before it are), 2 when the input is not valid (nothing is applied). Standard error then
 * names the record: "berth-identity: record 3 (addr): …".
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/random.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

enum { input_max = 4 << 20, words_max = 5, seed_max = 512, device_wait_ms = 10000 };

static char input[input_max + 1];

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

/* Written beside it and renamed: readers see the old file or the new one. */
static void write_file(const struct record *r, const char *target, const char *bytes, size_t length, mode_t mode) {
  char partial[PATH_MAX];
  snprintf(partial, sizeof partial, "%s.berth", target);
  int file = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (file < 0) FAILED(r, partial);
  for (size_t done = 0; done < length;) {
    ssize_t more = write(file, bytes + done, length - done);
    if (more < 0 && errno != EINTR) FAILED(r, partial);
    if (more > 0) done += (size_t)more;
  }
  if (fchmod(file, mode) != 0 || close(file) != 0) FAILED(r, partial);
  if (rename(partial, target) != 0) FAILED(r, target);
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

static void set_machine_id(struct record *r, bool apply) {
  if (strlen(r->word[1]) != 32) INVALID(r, "expected 32 hexadecimal digits");
  for (int i = 0; i < 32; i++) hex_digit(r, r->word[1][i]);
  if (!apply) return;
  /* The image's own is empty, and systemd has mounted a random one over it, which a file can't be renamed onto. */
  if (umount2("/etc/machine-id", MNT_DETACH) != 0 && errno != EINVAL && errno != ENOENT) FAILED(r, "/etc/machine-id");
  write_line(r, "/etc/machine-id", r->word[1], 0444);
}

/* The kernel chooses it once a boot, so all that came of one saved machine have the same: another is laid over it. */
static void set_boot_id(struct record *r, bool apply) {
  static const char *kernels = "/proc/sys/kernel/random/boot_id", *ours = "/run/berth/boot_id";
  const char *id = r->word[1];
  if (strlen(id) != 36) INVALID(r, "expected a UUID");
  for (int i = 0; i < 36; i++) {
    bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    if (dash ? id[i] != '-' : !isxdigit((unsigned char)id[i])) INVALID(r, "%.40s is not a UUID", id);
  }
  if (!apply) return;
  if (umount2(kernels, MNT_DETACH) != 0 && errno != EINVAL) FAILED(r, kernels);
  if (mkdir("/run/berth", 0700) != 0 && errno != EEXIST) FAILED(r, "/run/berth");
  write_line(r, ours, id, 0444);
  if (mount(ours, kernels, NULL, MS_BIND, NULL) != 0) FAILED(r, kernels);
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
  if (!apply) return;
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
  /* A disk that was plugged in a moment ago isn't there yet; one that another of us mounts at this moment is busy. */
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

static void go_over(size_t size, bool apply) {
  struct record r = {.word = {(char *)"-"}};
  for (char *at = input, *end = input + size; at < end;) {
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

int main(void) {
  size_t size = read_input();
  go_over(size, false);
  go_over(size, true);
  puts("ok");
  return 0;
}

/*
 * berth-stream: runs commands in a guest for clients that are connected to them, and connects to the guest's own ports.
 *
 *   berth-stream [SOCKET]    at the virtio port org.berth.stream.0, or, in tests, at a socket
 *
 * One process for all sessions. A session is a command with a terminal or with three pipes, or a TCP connection. Its output
 * is kept in a ring of 1 MiB and its input is counted, so that a host that was cut off, at any byte, continues where both
 * ends know that they were: after a live migration, and after a restart of the host's worker. What the host has confirmed stays
 * in the ring until newer output needs its place; what it has not confirmed is never overwritten: the command waits.
 *
 * A frame on the port is a body and its CRC-32, encoded by COBS (no zero in it), and a zero. A frame that was cut fails its
 * CRC, and the next zero begins anew. Numbers are little-endian. A body begins with its type and, but for H and h, the 16
 * bytes of a session's id:
 *
 *   from the host                                   from the guest
 *   H NONCE:8    forget the connection before       h NONCE:8 VERSION:1
 *   O KIND:1 ROWS:2 COLS:2 SECONDS:4 TEXTS          a INPUT:8 SIGNALS:4 FIRST:8 LAST:8    it is attached
 *   A AFTER:8    attach: send output after that     n REASON:1                            it is refused
 *   I AT:8 BYTES input                              o AT:8 CHANNEL:1 BYTES                output
 *   E AT:8       its end                            i AT:8                                input that the command has
 *   R ROWS:2 COLS:2                                 x AT:8 HOW:1 CODE:4                   the end, after all output
 *   S NUMBER:4 SIGNAL:1
 *   K AT:8       output that the client has
 *   C            end it, and forget it
 *   D            detach: it runs on
 *
 * KIND is p (pipes), t (terminal) or c (TCP connection to the port that the only argument names). TEXTS end with a zero each:
 * the folder, the number of environment entries, these, and the arguments. HOW is e (exit CODE), s (signal CODE) or t (ended
 * after SECONDS; CODE is 124). Every frame may come twice: offsets and NUMBER tell.
 *
 * Nobody attached for `forgotten_ms`: the session is ended. A machine without the port has an older version of the devices:
 * exit 0. Exit 1 with the reason on standard error.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum {
  version = 1,
  sessions_max = 32,
  id_size = 16,
  /* Output beyond what the host has confirmed: less than the ring, so that there is always some to send again. */
  window = 256 << 10,
  ring_size = 1 << 20,
  /* Changes between standard output and error in the ring. */
  parts_max = 8192,
  input_size = 64 << 10,
  payload_max = 16 << 10,
  body_max = payload_max + 64,
  wire_max = body_max + body_max / 254 + 16,
  arguments_max = 256,
  kill_after_ms = 5000,
  drain_ms = 2000,
  port_wait_ms = 5000,
  port_poll_ms = 20,
  forgotten_ms = 10 * 60 * 1000,
};

enum refusal { unknown_session = 1, too_many = 2, lost_output = 3, not_started = 4, bad_request = 5 };

struct session {
  bool used, attached, tty, tcp;
  uint8_t id[id_size];
  pid_t child;
  /* -1: closed. `in` and `out` are one descriptor of a terminal or a connection. */
  int in, out, err;
  /* Byte N of the output is at N % ring_size; `first` is the oldest one. */
  uint8_t *ring;
  uint64_t first, end, sent, confirmed;
  /* Where output of another channel begins: its offset, times two, plus one for standard error. */
  uint64_t *part;
  uint64_t part_first, part_end;
  uint8_t input[input_size];
  /* Bytes of the input that the command has, and that are here. */
  uint64_t written, received;
  uint64_t told;
  /* UINT64_MAX: the input goes on. */
  uint64_t input_end;
  uint32_t signals;
  bool says_attached, says_exit, ended, over, timed_out;
  int how, code;
  /* 0: none. */
  int64_t deadline, kill_at, detached_at, drained_at;
};

static struct session sessions[sessions_max];
static struct { uint8_t id[id_size]; uint8_t reason; } refusals[sessions_max];
static size_t refused;
static int port;
static bool connected = true, is_socket;
static uint8_t rx[wire_max], tx[wire_max];
static size_t rx_length, tx_length, tx_done;
static bool rx_skips = true;
static uint8_t nonce[8];
/* At first as well, with a NONCE of zeros: a host that is connected learns that sessions of before have ended. */
static bool says_hello = true;
static size_t turn;

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- frames ---- */

static uint32_t crc_table[256];

static void make_crc_table(void) {
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; bit++) value = value & 1 ? value >> 1 ^ 0xedb88320u : value >> 1;
    crc_table[i] = value;
  }
}

static uint32_t crc32(const uint8_t *bytes, size_t length) {
  uint32_t value = 0xffffffffu;
  for (size_t i = 0; i < length; i++) value = crc_table[(value ^ bytes[i]) & 255] ^ value >> 8;
  return ~value;
}

static uint64_t get(const uint8_t *bytes, int size) {
  uint64_t value = 0;
  while (size-- > 0) value = value << 8 | bytes[size];
  return value;
}

static size_t put(uint8_t *bytes, uint64_t value, int size) {
  for (int i = 0; i < size; i++, value >>= 8) bytes[i] = (uint8_t)value;
  return (size_t)size;
}

/*
 * Makes a frame of a body, which has space for four more bytes, the next to be written to the port. The zero before it ends what a
 * host that is new at the port has seen no beginning of.
 */
static void send_body(uint8_t *body, size_t length) {
  length += put(body + length, crc32(body, length), 4);
  size_t mark = 1, at = 2;
  uint8_t code = 1;
  tx[0] = 0;
  for (size_t i = 0; i < length; i++) {
    if (body[i] != 0) {
      tx[at++] = body[i];
      if (++code != 0xff) continue;
    }
    tx[mark] = code;
    code = 1;
    mark = at++;
  }
  tx[mark] = code;
  tx[at++] = 0;
  tx_length = at;
  tx_done = 0;
}

/* In place: what is decoded is never longer. 0: it is not encoded like that. */
static size_t decode(uint8_t *bytes, size_t length) {
  size_t from = 0, to = 0;
  while (from < length) {
    uint8_t code = bytes[from++];
    if (code == 0 || from + code - 1 > length) return 0;
    memmove(bytes + to, bytes + from, (size_t)code - 1);
    to += code - 1u;
    from += code - 1u;
    if (code != 0xff && from < length) bytes[to++] = 0;
  }
  return to;
}

/* ---- sessions ---- */

static struct session *find(const uint8_t *id) {
  for (size_t i = 0; i < sessions_max; i++)
    if (sessions[i].used && memcmp(sessions[i].id, id, id_size) == 0) return &sessions[i];
  return NULL;
}

static void refuse(const uint8_t *id, enum refusal reason) {
  if (refused == sessions_max) return;
  memcpy(refusals[refused].id, id, id_size);
  refusals[refused++].reason = (uint8_t)reason;
}

static void close_one(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

static void close_input(struct session *s) {
  if (s->in < 0) return;
  if (s->tcp) shutdown(s->in, SHUT_WR);
  else if (!s->tty) close(s->in);
  s->in = -1;
}

static void signal_session(struct session *s, int number) {
  if (s->child <= 0) return;
  if (s->tty && s->out >= 0 && number != SIGKILL && ioctl(s->out, TIOCSIG, number) == 0) return;
  kill(-s->child, number);
}

static void forget(struct session *s) {
  signal_session(s, SIGHUP);
  signal_session(s, SIGKILL);
  /* Its end is collected with those that nobody waits for. */
  if (s->in != s->out) close_one(&s->in);
  close_one(&s->out);
  close_one(&s->err);
  munmap(s->ring, ring_size);
  munmap(s->part, parts_max * sizeof *s->part);
  memset(s, 0, sizeof *s);
}

static void detach(struct session *s) {
  if (s->attached) s->detached_at = now_ms();
  s->attached = false;
}

static void detach_all(void) {
  for (size_t i = 0; i < sessions_max; i++)
    if (sessions[i].used) detach(&sessions[i]);
  refused = 0;
}

static void attach(struct session *s, uint64_t after) {
  if (after < s->first || after > s->end) {
    refuse(s->id, lost_output);
    return;
  }
  s->attached = true;
  s->detached_at = 0;
  s->sent = after;
  if (after > s->confirmed) s->confirmed = after;
  s->told = s->written;
  s->says_attached = true;
  s->says_exit = s->over;
}

static void set_size(int terminal, uint64_t rows, uint64_t cols) {
  struct winsize size = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)cols};
  ioctl(terminal, TIOCSWINSZ, &size);
}

struct request {
  char kind;
  uint64_t rows, cols, seconds;
  char *folder, **env, **argv;
};

/* The texts of a body, each ended by a zero. false: there are not as many as it says, or more than are allowed. */
static bool read_texts(char *text, size_t length, struct request *request) {
  static char *words[arguments_max + 2];
  size_t count = 0, folder_words = 2;
  if (length == 0 || text[length - 1] != '\0') return false;
  for (char *at = text; at < text + length; at += strlen(at) + 1) {
    if (count == arguments_max) return false;
    words[count++] = at;
  }
  words[count] = NULL;
  if (count < folder_words + 1) return false;
  char *end;
  unsigned long env = strtoul(words[1], &end, 10);
  if (*words[1] == '\0' || *end != '\0' || env > count - folder_words - 1) return false;
  request->folder = words[0];
  request->env = words + folder_words;
  request->argv = words + folder_words + env;
  return true;
}

/* In the child. */
static _Noreturn void become(const struct request *request, int in, int out, int err, const char *terminal) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  signal(SIGPIPE, SIG_DFL);
  int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (score >= 0 && write(score, "0", 1) != 1) errno = 0;
  setsid();
  if (terminal != NULL) {
    in = out = err = open(terminal, O_RDWR);
    if (in < 0) _exit(126);
    ioctl(in, TIOCSCTTY, 0);
  }
  if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0) _exit(126);
  if (terminal != NULL && in > 2) close(in);
  if (chdir(request->folder) != 0 && chdir("/") != 0) _exit(126);
  for (char **env = request->env; env != request->argv; env++) putenv(*env);
  execvp(request->argv[0], request->argv);
  int code = errno == ENOENT || errno == ENOTDIR ? 127 : 126;
  fprintf(stderr, "%s: %s\n", request->argv[0], strerror(errno));
  _exit(code);
}

static void set_nonblocking(int fd) {
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static bool start_terminal(struct session *s, const struct request *request) {
  char name[64];
  s->out = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (s->out < 0 || grantpt(s->out) != 0 || unlockpt(s->out) != 0 || ptsname_r(s->out, name, sizeof name) != 0) return false;
  set_size(s->out, request->rows, request->cols);
  s->child = fork();
  if (s->child == 0) become(request, -1, -1, -1, name);
  s->in = s->out;
  return s->child > 0;
}

static bool start_pipes(struct session *s, const struct request *request) {
  int in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1};
  bool made = pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0 && pipe2(err, O_CLOEXEC) == 0;
  if (made) {
    s->child = fork();
    if (s->child == 0) become(request, in[0], out[1], err[1], NULL);
  }
  close_one(&in[0]);
  close_one(&out[1]);
  close_one(&err[1]);
  s->in = in[1];
  s->out = out[0];
  s->err = err[0];
  return made && s->child > 0;
}

static bool start_connection(struct session *s, const struct request *request) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(request->argv[0]))};
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  s->out = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (s->out < 0) return false;
  int yes = 1;
  setsockopt(s->out, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  /* To itself: an answer, or a refusal, comes at once. */
  if (connect(s->out, (struct sockaddr *)&to, sizeof to) != 0) return false;
  s->in = s->out;
  return true;
}

static void open_session(const uint8_t *id, uint8_t *rest, size_t length) {
  struct session *s = find(id);
  if (s != NULL) {
    attach(s, s->first);
    return;
  }
  struct request request = {0};
  if (length < 9 || !read_texts((char *)rest + 9, length - 9, &request)) {
    refuse(id, bad_request);
    return;
  }
  request.kind = (char)rest[0];
  request.rows = get(rest + 1, 2);
  request.cols = get(rest + 3, 2);
  request.seconds = get(rest + 5, 4);
  for (size_t i = 0; s == NULL && i < sessions_max; i++)
    if (!sessions[i].used) s = &sessions[i];
  if (s == NULL) {
    refuse(id, too_many);
    return;
  }
  *s = (struct session){.used = true, .in = -1, .out = -1, .err = -1, .input_end = UINT64_MAX};
  memcpy(s->id, id, id_size);
  s->tty = request.kind == 't';
  s->tcp = request.kind == 'c';
  s->ring = mmap(NULL, ring_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  s->part = mmap(NULL, parts_max * sizeof *s->part, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  bool started = s->ring != MAP_FAILED && s->part != MAP_FAILED &&
                 (s->tcp ? start_connection(s, &request) : s->tty ? start_terminal(s, &request) : start_pipes(s, &request));
  if (!started) {
    forget(s);
    refuse(id, not_started);
    return;
  }
  if (s->in >= 0) set_nonblocking(s->in);
  set_nonblocking(s->out);
  if (s->err >= 0) set_nonblocking(s->err);
  if (request.seconds > 0) s->deadline = now_ms() + (int64_t)request.seconds * 1000;
  attach(s, 0);
}

/* ---- from the host ---- */

static void take_input(struct session *s, uint64_t at, const uint8_t *bytes, size_t length) {
  if (at > s->received || at + length <= s->received) return;
  bytes += s->received - at;
  length -= s->received - at;
  for (size_t i = 0; i < length && s->received < s->written + input_size; i++) s->input[s->received++ % input_size] = bytes[i];
}

static void take_body(uint8_t *body, size_t length) {
  if (body[0] == 'H') {
    if (length != 9) return;
    detach_all();
    memcpy(nonce, body + 1, sizeof nonce);
    says_hello = true;
    return;
  }
  if (length < 1 + id_size) return;
  const uint8_t *id = body + 1;
  uint8_t *rest = body + 1 + id_size;
  length -= 1 + id_size;
  if (body[0] == 'O') {
    open_session(id, rest, length);
    return;
  }
  struct session *s = find(id);
  if (s == NULL) {
    if (body[0] == 'A') refuse(id, unknown_session);
    return;
  }
  switch (body[0]) {
    case 'A':
      if (length == 8) attach(s, get(rest, 8));
      break;
    case 'I':
      if (length > 8) take_input(s, get(rest, 8), rest + 8, length - 8);
      break;
    case 'E':
      if (length == 8) s->input_end = get(rest, 8);
      break;
    case 'R':
      if (length == 4 && s->tty && s->out >= 0) set_size(s->out, get(rest, 2), get(rest + 2, 2));
      break;
    case 'S':
      if (length != 5 || get(rest, 4) <= s->signals) break;
      s->signals = (uint32_t)get(rest, 4);
      if (rest[4] >= 1 && rest[4] <= 64) signal_session(s, rest[4]);
      break;
    case 'K':
      if (length == 8 && get(rest, 8) > s->confirmed && get(rest, 8) <= s->sent) s->confirmed = get(rest, 8);
      break;
    case 'C':
      forget(s);
      break;
    case 'D':
      detach(s);
      break;
  }
}

static void take_frame(void) {
  size_t length = decode(rx, rx_length);
  if (length < 5 || length > body_max + 4) return;
  length -= 4;
  if (crc32(rx, length) == get(rx + length, 4)) take_body(rx, length);
}

static void lose_host(void) {
  if (is_socket) exit(0);
  connected = false;
  detach_all();
  rx_skips = true;
  rx_length = tx_length = tx_done = 0;
  says_hello = false;
}

static void read_port(void) {
  static uint8_t chunk[32768];
  ssize_t length = read(port, chunk, sizeof chunk);
  if (length == 0) lose_host();
  for (ssize_t i = 0; i < length; i++) {
    if (chunk[i] == 0) {
      if (!rx_skips && rx_length > 0) take_frame();
      rx_skips = false;
      rx_length = 0;
    } else if (rx_length == sizeof rx) rx_skips = true;
    else if (!rx_skips) rx[rx_length++] = chunk[i];
  }
}

/* ---- to the host ---- */

static size_t begin(uint8_t *body, char type, const uint8_t *id) {
  body[0] = (uint8_t)type;
  memcpy(body + 1, id, id_size);
  return 1 + id_size;
}

/* The channel of a byte of the output, and how many bytes from there are of that channel. */
static size_t same_channel(const struct session *s, uint64_t at, int *channel) {
  uint64_t low = s->part_first, high = s->part_end;
  while (high - low > 1) {
    uint64_t middle = low + (high - low) / 2;
    if (s->part[middle % parts_max] >> 1 <= at) low = middle;
    else high = middle;
  }
  *channel = s->part[low % parts_max] & 1 ? 2 : 1;
  return (size_t)((low + 1 < s->part_end ? s->part[(low + 1) % parts_max] >> 1 : s->end) - at);
}

static bool can_send(const struct session *s) {
  return s->attached && s->sent < s->end && s->sent < s->confirmed + window;
}

static void send_output(struct session *s, uint8_t *body) {
  int channel;
  size_t length = same_channel(s, s->sent, &channel);
  if (length > payload_max) length = payload_max;
  if (length > s->confirmed + window - s->sent) length = (size_t)(s->confirmed + window - s->sent);
  size_t at = begin(body, 'o', s->id);
  at += put(body + at, s->sent, 8);
  body[at++] = (uint8_t)channel;
  for (size_t i = 0; i < length; i++) body[at++] = s->ring[s->sent++ % ring_size];
  send_body(body, at);
}

/* The next frame of one session, if it has one. */
static bool send_of(struct session *s, uint8_t *body) {
  if (!s->used || !s->attached) return false;
  if (s->says_attached) {
    size_t at = begin(body, 'a', s->id);
    at += put(body + at, s->written, 8);
    at += put(body + at, s->signals, 4);
    at += put(body + at, s->first, 8);
    at += put(body + at, s->end, 8);
    s->says_attached = false;
    send_body(body, at);
    return true;
  }
  if (s->told != s->written) {
    size_t at = begin(body, 'i', s->id);
    at += put(body + at, s->written, 8);
    s->told = s->written;
    send_body(body, at);
    return true;
  }
  if (can_send(s)) {
    send_output(s, body);
    return true;
  }
  if (s->says_exit && s->sent == s->end) {
    size_t at = begin(body, 'x', s->id);
    at += put(body + at, s->end, 8);
    body[at++] = (uint8_t)s->how;
    at += put(body + at, (uint64_t)s->code, 4);
    s->says_exit = false;
    send_body(body, at);
    return true;
  }
  return false;
}

static bool next_frame(void) {
  static uint8_t body[body_max + 4];
  if (says_hello) {
    body[0] = 'h';
    memcpy(body + 1, nonce, sizeof nonce);
    body[9] = version;
    says_hello = false;
    send_body(body, 10);
    return true;
  }
  if (refused > 0) {
    size_t at = begin(body, 'n', refusals[--refused].id);
    body[at++] = refusals[refused].reason;
    send_body(body, at);
    return true;
  }
  for (size_t i = 0; i < sessions_max; i++) {
    turn = (turn + 1) % sessions_max;
    if (send_of(&sessions[turn], body)) return true;
  }
  return false;
}

static void write_port(void) {
  while (connected && (tx_done < tx_length || next_frame())) {
    ssize_t length = write(port, tx + tx_done, tx_length - tx_done);
    if (length < 0 && errno == EINTR) continue;
    if (length < 0 && errno == EAGAIN) return;
    if (length <= 0) {
      lose_host();
      return;
    }
    tx_done += (size_t)length;
  }
}

/* ---- commands ---- */

static uint64_t space(const struct session *s) {
  return s->part_end - s->part_first == parts_max && s->part[(s->part_first + 1) % parts_max] >> 1 > s->confirmed
             ? 0
             : s->confirmed + ring_size - s->end;
}

static void note_channel(struct session *s, int channel) {
  uint64_t bit = channel == 2;
  if (s->part_end > s->part_first && (s->part[(s->part_end - 1) % parts_max] & 1) == bit) return;
  if (s->part_end - s->part_first == parts_max) {
    s->part_first++;
    uint64_t first = s->part[s->part_first % parts_max] >> 1;
    if (first > s->first) s->first = first;
  }
  s->part[s->part_end++ % parts_max] = s->end << 1 | bit;
}

static void read_output(struct session *s, int *fd, int channel) {
  uint64_t room = space(s), at = s->end % ring_size;
  if (room > ring_size - at) room = ring_size - at;
  if (room > payload_max) room = payload_max;
  if (room == 0) return;
  ssize_t length = read(*fd, s->ring + at, room);
  if (length < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (length <= 0) {
    if (s->in == *fd) s->in = -1;
    close_one(fd);
    return;
  }
  note_channel(s, channel);
  s->end += (uint64_t)length;
  if (s->end - s->first > ring_size) s->first = s->end - ring_size;
  while (s->part_first + 1 < s->part_end && s->part[(s->part_first + 1) % parts_max] >> 1 <= s->first) s->part_first++;
  s->drained_at = 0;
}

static void write_input(struct session *s) {
  while (s->in >= 0 && s->written < s->received) {
    size_t at = s->written % input_size, length = (size_t)(s->received - s->written);
    if (length > input_size - at) length = input_size - at;
    ssize_t done = write(s->in, s->input + at, length);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0 && errno == EAGAIN) return;
    if (done <= 0) {
      close_input(s);
      break;
    }
    s->written += (uint64_t)done;
  }
  /* Nobody reads any more: it counts as read, so that the client is not kept waiting. */
  if (s->in < 0) s->written = s->received;
  if (s->written != s->input_end || s->in < 0) return;
  if (s->tty && write(s->in, "\x04", 1) < 0 && errno == EAGAIN) return;
  close_input(s);
}

static void note_exit(pid_t child, int status) {
  for (size_t i = 0; i < sessions_max; i++) {
    struct session *s = &sessions[i];
    if (!s->used || s->child != child) continue;
    s->child = 0;
    s->ended = true;
    s->how = s->timed_out ? 't' : WIFSIGNALED(status) ? 's' : 'e';
    s->code = s->timed_out ? 124 : WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
  }
}

static void collect_children(void) {
  int status;
  for (pid_t child; (child = waitpid(-1, &status, WNOHANG)) > 0;) note_exit(child, status);
}

static void earlier(int64_t *when, int64_t moment) {
  if (moment > 0 && moment < *when) *when = moment;
}

/* What is due of a session; returns when something will be, at the latest. */
static void keep_time(struct session *s, int64_t now, int64_t *next) {
  if (s->deadline > 0 && now >= s->deadline && !s->ended) {
    s->deadline = 0;
    s->timed_out = true;
    if (s->tcp) {
      close_one(&s->out);
      s->in = -1;
    }
    signal_session(s, SIGTERM);
    s->kill_at = now + kill_after_ms;
  }
  if (s->kill_at > 0 && now >= s->kill_at) {
    s->kill_at = 0;
    signal_session(s, SIGKILL);
  }
  if (s->tcp && s->out < 0 && !s->ended) {
    s->ended = true;
    s->how = s->timed_out ? 't' : 'e';
    s->code = s->timed_out ? 124 : 0;
  }
  if (s->ended && !s->over) {
    /* A process that was left in the background may hold the pipes open for ever. */
    if (s->drained_at == 0) s->drained_at = now + drain_ms;
    bool full = space(s) == 0;
    if ((s->out < 0 && s->err < 0) || (now >= s->drained_at && !full)) {
      s->over = true;
      s->says_exit = true;
      if (s->in != s->out) close_one(&s->in);
      s->in = -1;
      close_one(&s->out);
      close_one(&s->err);
    }
  }
  if (s->detached_at > 0 && now >= s->detached_at + forgotten_ms) {
    forget(s);
    return;
  }
  if (!s->ended) earlier(next, s->deadline);
  earlier(next, s->kill_at);
  if (s->ended && !s->over) earlier(next, s->drained_at);
  if (s->detached_at > 0) earlier(next, s->detached_at + forgotten_ms);
}

/* ---- the loop ---- */

static void take_signals(int signals) {
  struct signalfd_siginfo info;
  while (read(signals, &info, sizeof info) == sizeof info) {
    if (info.ssi_signo == SIGCHLD) collect_children();
    /* The port tells that a host came or went, or sent something. */
    if (info.ssi_signo == SIGIO) connected = true;
  }
}

static void serve(int signals) {
  struct pollfd fds[2 + 3 * sessions_max];
  for (;;) {
    int64_t now = now_ms(), next = now + 3600 * 1000;
    for (size_t i = 0; i < sessions_max; i++)
      if (sessions[i].used) keep_time(&sessions[i], now, &next);
    write_port();
    fds[0] = (struct pollfd){.fd = connected ? port : -1, .events = (short)(POLLIN | (tx_done < tx_length ? POLLOUT : 0))};
    fds[1] = (struct pollfd){.fd = signals, .events = POLLIN};
    for (size_t i = 0; i < sessions_max; i++) {
      struct session *s = &sessions[i];
      bool writes = s->used && s->in >= 0 && (s->written < s->received || s->written == s->input_end);
      bool reads = s->used && space(s) > 0;
      struct pollfd *f = fds + 2 + 3 * i;
      f[0] = (struct pollfd){.fd = writes ? s->in : -1, .events = POLLOUT};
      f[1] = (struct pollfd){.fd = reads ? s->out : -1, .events = POLLIN};
      f[2] = (struct pollfd){.fd = reads ? s->err : -1, .events = POLLIN};
    }
    if (poll(fds, sizeof fds / sizeof *fds, (int)(next > now ? next - now : 0)) < 0 && errno != EINTR) exit(1);
    if (fds[1].revents != 0) take_signals(signals);
    if (fds[0].revents & (POLLIN | POLLHUP | POLLERR)) {
      if (fds[0].revents & POLLIN) read_port();
      else lose_host();
    }
    for (size_t i = 0; i < sessions_max; i++) {
      struct session *s = &sessions[i];
      struct pollfd *f = fds + 2 + 3 * i;
      if (!s->used) continue;
      if (s->out >= 0 && f[1].fd == s->out && f[1].revents != 0) read_output(s, &s->out, 1);
      if (s->err >= 0 && f[2].fd == s->err && f[2].revents != 0) read_output(s, &s->err, 2);
      write_input(s);
    }
  }
}

static _Noreturn void stop_with(const char *what) {
  fprintf(stderr, "berth-stream: %s: %s\n", what, strerror(errno));
  exit(1);
}

/* The device of the port; -1 where there is none now. */
static int open_port(void) {
  static const char *port_name = "org.berth.stream.0";
  char place[512], name[64];
  int found = -1;
  DIR *ports = opendir("/sys/class/virtio-ports");
  if (ports == NULL) return -1;
  for (struct dirent *entry; found < 0 && (entry = readdir(ports)) != NULL;) {
    snprintf(place, sizeof place, "/sys/class/virtio-ports/%s/name", entry->d_name);
    FILE *file = fopen(place, "re");
    if (file == NULL) continue;
    bool is_ours = fgets(name, sizeof name, file) != NULL && strncmp(name, port_name, strlen(port_name)) == 0;
    fclose(file);
    if (!is_ours) continue;
    snprintf(place, sizeof place, "/dev/%s", entry->d_name);
    found = open(place, O_RDWR | O_CLOEXEC);
    if (found < 0) stop_with(place);
  }
  closedir(ports);
  return found;
}

static int open_socket(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
  int found = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (found < 0 || connect(found, (struct sockaddr *)&address, sizeof address) != 0) stop_with(path);
  return found;
}

int main(int count, char **words) {
  make_crc_table();
  is_socket = count > 1;
  /* Its driver makes the ports one after the other. */
  for (int waited = 0; !is_socket && (port = open_port()) < 0; waited += port_poll_ms) {
    if (waited >= port_wait_ms) return 0;
    usleep(port_poll_ms * 1000);
  }
  if (is_socket) port = open_socket(words[1]);
  signal(SIGPIPE, SIG_IGN);
  sigset_t taken;
  sigemptyset(&taken);
  sigaddset(&taken, SIGCHLD);
  sigaddset(&taken, SIGIO);
  sigprocmask(SIG_BLOCK, &taken, NULL);
  int signals = signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signals < 0 || fcntl(port, F_SETOWN, getpid()) != 0 || fcntl(port, F_SETFL, O_NONBLOCK | O_ASYNC) != 0) stop_with("port");
  serve(signals);
}

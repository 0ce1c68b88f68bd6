/* Power of two choices in C, against the canonical ABI by hand: no generator, no libc, no allocator.
 *
 * The contract is sdk/wit/policy.wit. This file is the world `load-balancer`: it exports the interfaces `balancer` and
 * `state`, and imports the one host function that it needs. How values cross the border is in the component model's
 * canonical ABI (https://github.com/WebAssembly/component-model/blob/main/design/mvp/CanonicalABI.md); what of it matters
 * here stands beside each function. Pointers and lengths are 32 bits wide.
 *
 * Invariant: nothing that the host has put into the arena is used after the call that brought it.
 */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#define EXPORT(name) __attribute__((export_name(name)))
#define IMPORT(module, name) __attribute__((import_module(module), import_name(name)))
#define BALANCER "outrigger:policy/balancer@0.1.0#"
#define STATE "outrigger:policy/state@0.1.0#"

/* ---- The types of the contract, as they lie in memory ---- */

/* A string or a list: always a pointer and a count. */
struct span { const void *data; u32 count; };

/* record endpoint: 40 bytes, since `id` aligns it to 8. */
struct endpoint {
  u64 id;
  struct span address;
  u32 weight;
  struct span zone;
  struct span labels;
};
_Static_assert(sizeof(void *) == 4 && sizeof(struct endpoint) == 40, "compile for wasm32");

/* record load. */
struct load { u32 in_flight, latency_us, success, reported; };

/* variant choice: which case, and its payload. */
struct choice { u8 is; u32 endpoint; };
enum { CHOICE_ENDPOINT, CHOICE_NONE, CHOICE_FALLBACK };

/* result<interests, string>: the flags are one byte, in the place of the error's text. */
struct configured { u8 is_error; union { u8 interests; struct span error; }; };

/* ---- What is imported ---- */

/* get-pair: func(a, b) -> tuple<load, load>. A result of more than one number is written where we say. */
IMPORT("outrigger:policy/stats@0.1.0", "get-pair")
void stats_get_pair(u32 a, u32 b, struct load pair[2]);

/* ---- Memory: the host asks for room for what it passes in, and all of it is free again when the call is over ---- */

extern u8 __heap_base; /* set by the linker: the first byte behind stack and data */
static u32 arena_used;

EXPORT("cabi_realloc")
void *cabi_realloc(void *old, u32 old_size, u32 align, u32 size) {
  u32 base = (u32)&__heap_base;
  u32 start = (base + arena_used + align - 1) & ~(align - 1);
  u32 have = __builtin_wasm_memory_size(0) * 65536;
  if (start + size > have && __builtin_wasm_memory_grow(0, (start + size - have + 65535) / 65536) == (__SIZE_TYPE__)-1)
    __builtin_trap(); /* over the limit of 16 MiB: the proxy replaces the instance */
  arena_used = start + size - base;
  for (u32 i = 0; i < old_size && i < size; i++) ((u8 *)start)[i] = ((const u8 *)old)[i];
  return (void *)start;
}

static void arena_reset(void) { arena_used = 0; }

/* ---- balancer ---- */

static u32 endpoint_count;

/* configure: func(setup) -> result<interests, string>. Four strings are eight numbers; the result is returned as a
 * pointer to it, which has to stay valid until the next call: hence static. */
EXPORT(BALANCER "configure")
struct configured *configure(const char *config, u32 config_length, const char *service, u32 service_length,
                             const char *zone, u32 zone_length, const char *target, u32 target_length) {
  static const char refusal[] = "config: this policy has no settings; leave `config` out";
  static struct configured result;
  (void)service, (void)service_length, (void)zone, (void)zone_length, (void)target, (void)target_length;
  result.is_error = !(config_length == 2 && config[0] == '{' && config[1] == '}');
  if (result.is_error)
    result.error = (struct span){refusal, sizeof refusal - 1};
  else
    result.interests = 0; /* bits in the order of the contract: 1 outcomes, 2 ticks, 4 state, 8 rebuild */
  arena_reset();
  return &result;
}

/* update: func(endpoints: list<endpoint>). This policy needs no more than their number; what a policy wants to keep of
 * `list`, it copies. */
EXPORT(BALANCER "update")
void update(const struct endpoint *list, u32 count) {
  (void)list;
  endpoint_count = count;
  arena_reset();
}

/* pick: func(ctx: context) -> choice. The record comes field by field, the option as a flag and a value. */
EXPORT(BALANCER "pick")
struct choice *pick(u64 hash, u64 random, u64 now, u32 attempt, u32 has_previous, u32 previous) {
  static struct choice result;
  (void)hash, (void)now, (void)attempt;
  result.is = endpoint_count > 0 ? CHOICE_ENDPOINT : CHOICE_NONE;
  result.endpoint = 0;
  if (endpoint_count < 2) return &result;

  /* Two different ones: the second is drawn from one fewer, and moves up from the first's place on. */
  u32 a = (u32)(((random >> 32) * endpoint_count) >> 32);
  u32 b = (u32)(((random & 0xffffffff) * (endpoint_count - 1)) >> 32);
  if (b >= a) b++;

  if (has_previous && previous == a) {
    result.endpoint = b;
  } else if (has_previous && previous == b) {
    result.endpoint = a;
  } else {
    struct load pair[2];
    stats_get_pair(a, b, pair);
    result.endpoint = pair[1].in_flight < pair[0].in_flight ? b : a;
  }
  return &result;
}

/* observe: func(observation). Never called: `interests` does not ask for it. It has to be there all the same. */
EXPORT(BALANCER "observe")
void observe(u32 endpoint, u32 outcome, u32 status, u32 attempt, u64 first_byte, u64 total, u64 now) {
  (void)endpoint, (void)outcome, (void)status, (void)attempt, (void)first_byte, (void)total, (void)now;
}

/* tick: func(now). Never called, either. */
EXPORT(BALANCER "tick")
void tick(u64 now) { (void)now; }

/* ---- state: nothing is handed over, but the world has it ---- */

/* export-state: func() -> list<u8>. */
EXPORT(STATE "export-state")
struct span *export_state(void) {
  static struct span nothing;
  return &nothing;
}

/* import-state: func(bytes: list<u8>) -> result<_, string>. */
EXPORT(STATE "import-state")
struct configured *import_state(const u8 *bytes, u32 count) {
  static struct configured accepted;
  (void)bytes, (void)count;
  arena_reset();
  return &accepted;
}

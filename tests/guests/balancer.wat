;; A balancer whose functions are replaced one by one: `{name}` stands for a body that src/guest.rs gives.
;; Answers are prepared in the data section, so that a body is often nothing but a pointer.
(module
  {imports}
  (memory (export "memory") {pages})
  (global $next (mut i32) (i32.const 4096))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (global.set $next (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
    (global.get $next)
    (global.set $next (i32.add (global.get $next) (local.get 3))))
  (func $start_over (global.set $next (i32.const 4096)))

  ;; setup: four strings -> result<interests, string>
  (func (export "outrigger:policy/balancer@0.1.0#configure")
    (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32) (call $start_over) {configure})
  ;; list<endpoint>
  (func (export "outrigger:policy/balancer@0.1.0#update") (param i32 i32) (call $start_over) {update})
  ;; hash, random, now, attempt, previous -> choice
  (func (export "outrigger:policy/balancer@0.1.0#pick") (param i64 i64 i64 i32 i32 i32) (result i32) {pick})
  (func (export "outrigger:policy/balancer@0.1.0#observe") (param i32 i32 i32 i32 i64 i64 i64) {observe})
  (func (export "outrigger:policy/balancer@0.1.0#tick") (param i64) {tick})

  ;; Hands over one byte, and picks the endpoint that a byte taken over names.
  (func (export "outrigger:policy/state@0.1.0#export-state") (result i32) (i32.const 112))
  (func (export "outrigger:policy/state@0.1.0#import-state") (param i32 i32) (result i32)
    (i32.store8 (i32.const 68) (i32.load8_u (local.get 0)))
    (call $start_over)
    (i32.const 16))

  (data (i32.const 16) "\00\00\00\00\00")                              ;; ok(no interests)
  (data (i32.const 24) "\00\00\00\00\02")                              ;; ok(ticks)
  (data (i32.const 32) "\00\00\00\00\04")                              ;; ok(state)
  (data (i32.const 40) "\00\00\00\00\01")                              ;; ok(outcomes)
  (data (i32.const 48) "\01\00\00\00\60\00\00\00\10\00\00\00")         ;; err(the words below)
  (data (i32.const 64) "\00\00\00\00\00\00\00\00")                     ;; endpoint(0)
  (data (i32.const 72) "\00\00\00\00\01\00\00\00")                     ;; endpoint(1)
  (data (i32.const 80) "\00\00\00\00\07\00\00\00")                     ;; endpoint(7)
  (data (i32.const 88) "\02\00\00\00\00\00\00\00")                     ;; fallback
  (data (i32.const 96) "zeal: not a word")
  (data (i32.const 112) "\80\00\00\00\01\00\00\00")                    ;; the byte below
  (data (i32.const 128) "\01"))

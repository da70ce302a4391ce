/* The barrier: a parent (row 0) fans out to rows 1 and 2, waits, fans out to row 3, waits, and ends. Two workers, and
 * operators who cancel and retry parent and children at any time. README.md says which SQL statement each step is.
 *
 * Row versions: w_* is the newest version, c_* the committed one; they differ only where `lock` names the transaction
 * that wrote, and SEE is what a transaction reads. Each atomic block is one SQL statement.
 */
#ifndef OPERATORS
#define OPERATORS 2
#endif
#ifndef FAULTS
#define FAULTS 1      /* rolled back transactions, lost workers */
#endif
#define ROWS 4

#define NIL 0         /* not inserted */
#define RUN 1
#define EXE 2
#define WAITS 3       /* awaiting_children */
#define END 4         /* done */
#define FAIL 5        /* failed or cancelled: can be retried */

byte lock[ROWS];
byte w_st[ROWS], c_st[ROWS];
byte w_no[ROWS], c_no[ROWS];      /* claim_no */
byte w_bar[ROWS], c_bar[ROWS];    /* barrier_no; for row 0: children_pending */
byte w_step = 0, c_step = 0;      /* the parent's next step: 0 and 1 fan out, 2 ends */
bit past[ROWS];                   /* the lease has run out */
byte faults = FAULTS;
byte operators = OPERATORS;
#ifndef EARLY
#define EARLY 1       /* a lease may run out although its worker lives */
#endif
bit early = EARLY;
byte held[3];                     /* row + 1 of the claim that each worker believes to hold */

#define pending_w w_bar[0]
#define pending_c c_bar[0]
#define SEE_ST(r)  (lock[r] == me -> w_st[r] : c_st[r])
#define SEE_BAR(r) (lock[r] == me -> w_bar[r] : c_bar[r])
#define ended(s) (s == END || s == FAIL)
#define counts(r) (c_bar[r] != 0 && c_bar[r] == c_no[0] && c_st[r] != NIL && !ended(c_st[r]))

#define gone(r) (c_st[r] == NIL || ended(c_st[r]))
#define finished (operators == 0 && ended(c_st[0]) && gone(1) && gone(2) && gone(3))

/* The commit of a transaction. Whatever is committed, a parent that waits counts exactly the children of its present
 * barrier that have not ended; so it leaves the barrier with the last of them, and not before. */
inline publish() {
    d_step {
        i = 0;
        do
        :: i < ROWS ->
            if
            :: lock[i] == me ->
                if
                :: i == 0 && c_st[0] == WAITS && w_st[0] == RUN -> freed = 1
                :: else -> skip
                fi;
                if
                :: c_st[i] == EXE && w_st[i] != EXE -> past[i] = 0
                :: else -> skip
                fi;
                c_st[i] = w_st[i]; c_no[i] = w_no[i]; c_bar[i] = w_bar[i];
                if :: i == 0 -> c_step = w_step :: else -> skip fi;
                lock[i] = 0
            :: else -> skip
            fi;
            i++
        :: else -> break
        od;
        i = 0;
        assert(c_st[0] != WAITS || pending_c > 0);
        assert(c_st[0] != WAITS || pending_c == counts(1) + counts(2) + counts(3));
        assert(!freed || !(counts(1) || counts(2) || counts(3)));
        freed = 0
    }
}
inline undo() {
    d_step {
        i = 0;
        do
        :: i < ROWS ->
            if
            :: lock[i] == me -> w_st[i] = c_st[i]; w_no[i] = c_no[i]; w_bar[i] = c_bar[i];
                if :: i == 0 -> w_step = c_step :: else -> skip fi;
                lock[i] = 0
            :: else -> skip
            fi;
            i++
        :: else -> break
        od;
        i = 0
    }
}

/* _count_out_of_barriers: `seen` is what was known of the counter, under the lock in the right order */
inline release_parent(bar, seen) {
    if
#ifdef BUG_BARRIER_UNNUMBERED
    :: bar != 0 && lock[0] == me && w_st[0] == WAITS ->
#else
    :: bar != 0 && lock[0] == me && w_st[0] == WAITS && w_no[0] == bar ->
#endif
        pending_w = seen - 1;
        if :: pending_w == 0 -> w_st[0] = RUN :: else -> skip fi
    :: else -> skip
    fi
}

proctype Worker(byte me)
{
    byte r = 0, no = 0, i = 0, seen = 0;
    bit freed = 0, missed = 0;

idle:
    if
    :: atomic {                                 /* _pick_due */
        if
        :: lock[0] == 0 && (c_st[0] == RUN || (c_st[0] == EXE && past[0])) -> r = 0
        :: lock[1] == 0 && (c_st[1] == RUN || (c_st[1] == EXE && past[1])) -> r = 1
        :: lock[2] == 0 && (c_st[2] == RUN || (c_st[2] == EXE && past[2])) -> r = 2
        :: lock[3] == 0 && (c_st[3] == RUN || (c_st[3] == EXE && past[3])) -> r = 3
        fi;
        lock[r] = me
       }
    :: finished -> goto over
    fi;
    if
    :: atomic { r > 0 && c_st[r] == EXE ->      /* the crash cap: _end_crashed, if the parent can be locked */
        if :: lock[0] == 0 -> lock[0] = me :: else -> undo(); r = 0; goto idle fi };
        atomic { w_st[r] = FAIL; release_parent(w_bar[r], pending_w) };
        atomic { publish(); r = 0; goto idle }
    :: atomic {                                 /* _hand_out */
        w_st[r] = EXE; w_no[r] = w_no[r] + 1; no = w_no[r]; past[r] = 0; held[me] = r + 1; publish() }
    fi;

    /* the step runs */
    if
    :: atomic { faults > 0 -> faults--; held[me] = 0; r = 0; no = 0; goto idle }
    :: skip
    fi;

commit:
#ifdef BUG_COUNT_READ_BEFORE_LOCK
    atomic { seen = pending_c };
#endif
    atomic {                                    /* _lock_outcomes: the row */
        if
        :: lock[r] == 0 && c_st[r] == EXE && c_no[r] == no -> lock[r] = me
        :: else -> missed = 1
        fi
    };
    if
    :: missed ->
        atomic {                                /* busy or stale */
            missed = 0;
            if
            :: c_st[r] == EXE && c_no[r] == no -> goto commit
            :: else -> held[me] = 0; r = 0; no = 0; seen = 0; goto idle
            fi
        }
    :: else -> skip
    fi;
    if
    :: r == 0 -> skip
    :: r > 0 ->
        if
        :: w_bar[r] == 0 -> skip                /* no barrier_no: there is no parent to lock */
        :: else ->
            atomic { if :: lock[0] == 0 -> lock[0] = me :: else -> missed = 1 fi };
            if
            :: missed ->
                atomic {                        /* a later statement: does it wait at all? */
                    missed = 0;
#ifndef BUG_END_SKIPS_PARENT
                    if
                    :: c_st[0] == WAITS -> undo(); seen = 0; goto commit
                    :: else -> skip
                    fi
#endif
                }
            :: else -> skip
            fi
        fi
    fi;
    atomic {                                    /* _apply_outcomes */
        if
        :: r == 0 && w_step == 0 ->             /* insert the children, park under this claim's number */
            lock[1] = me; w_st[1] = RUN; w_bar[1] = no; lock[2] = me; w_st[2] = RUN; w_bar[2] = no;
            w_st[0] = WAITS; w_step = 1; pending_w = 2
        :: r == 0 && w_step == 1 ->
            lock[3] = me; w_st[3] = RUN; w_bar[3] = no; w_st[0] = WAITS; w_step = 2; pending_w = 1
        :: r == 0 && w_step == 2 -> w_st[0] = END
        :: r > 0 -> w_st[r] = END
        :: r > 0 -> w_st[r] = FAIL
        fi
    };
    if
    :: r > 0 ->
        atomic {
#ifndef BUG_COUNT_READ_BEFORE_LOCK
            seen = pending_w;
#endif
            /* an update without the lock could only wait where the parent is in this very barrier: it never is */
#ifndef BUG_END_SKIPS_PARENT
            assert(lock[0] == me || w_bar[r] == 0 || c_st[0] != WAITS || c_no[0] != w_bar[r]);
#endif
            release_parent(w_bar[r], seen)
        }
    :: else -> skip
    fi;
    if
    :: atomic { held[me] = 0; r = 0; no = 0; seen = 0; publish(); goto idle }
    :: atomic { faults > 0 -> faults--; seen = 0; undo(); goto commit }
    fi;
over:
    skip
}

proctype Operator(byte me)
{
    byte r = 0, i = 0;
    bit freed = 0, waits = 0;

    if
    :: r = 0 :: r = 1 :: r = 2 :: r = 3
    fi;
    if
    :: atomic { c_st[r] != NIL && !ended(c_st[r]) -> skip };    /* gd_cancel: _lock_tree by id, waiting for each */
        if :: r > 0 -> atomic { lock[0] == 0 -> lock[0] = me } :: else -> skip fi;
        atomic { lock[r] == 0 -> lock[r] = me };
        atomic {                                                /* a later statement: has it ended? then _end_outside */
            if
            :: !ended(w_st[r]) ->
                w_st[r] = FAIL;
                if :: r > 0 -> release_parent(w_bar[r], pending_w) :: else -> skip fi
            :: else -> skip
            fi
        };
        if :: publish() :: undo() fi
    :: atomic { c_st[r] == FAIL -> skip };                      /* gd_retry */
#ifdef BUG_RETRY_READS_BEFORE_LOCK
        atomic { waits = (r > 0 && c_st[0] == WAITS && c_no[0] == c_bar[r]) };
#endif
        if :: r > 0 -> atomic { lock[0] == 0 -> lock[0] = me } :: else -> skip fi;
        atomic { lock[r] == 0 -> lock[r] = me };
#ifndef BUG_RETRY_READS_BEFORE_LOCK
        atomic { waits = (r > 0 && w_st[0] == WAITS && w_no[0] == w_bar[r]) };
#endif
        atomic {
            if
            :: w_st[r] == FAIL ->
                w_st[r] = RUN;
                if
                :: r == 0 -> pending_w = 0
                :: r > 0 && !waits -> w_bar[r] = 0
                :: r > 0 && waits ->
#ifndef BUG_RETRY_NOT_COUNTED
                    pending_w = pending_w + 1
#else
                    skip
#endif
                fi
            :: else -> skip
            fi
        };
        if :: publish() :: undo() fi
    :: skip
    fi;
    operators--
}

#define abandoned(r) (held[1] != r + 1 && held[2] != r + 1)

proctype Clock()
{
    do
    :: atomic { c_st[0] == EXE && !past[0] && lock[0] == 0 && abandoned(0) -> past[0] = 1 }
    :: atomic { c_st[1] == EXE && !past[1] && lock[1] == 0 && (abandoned(1) || early) ->
        if :: abandoned(1) -> skip :: else -> early = 0 fi; past[1] = 1 }
    :: atomic { c_st[2] == EXE && !past[2] && lock[2] == 0 && abandoned(2) -> past[2] = 1 }
    :: atomic { c_st[3] == EXE && !past[3] && lock[3] == 0 && abandoned(3) -> past[3] = 1 }
    :: finished -> break
    od
}

init {
    byte i = 3;
    atomic {
        c_st[0] = RUN; w_st[0] = RUN;
        run Worker(1); run Worker(2); run Clock();
        do
        :: i < 3 + OPERATORS -> run Operator(i); i++
        :: else -> break
        od
    }
}

ltl ends { <> finished }

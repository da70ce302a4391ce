/* Signal and await: one instance that needs three signals one after the other (a, then b, then a again), three
 * senders, two workers, and the clock. README.md says which SQL statement each step stands for.
 *
 * Row versions: w_* is the newest version, c_* the committed one; they differ only while `lock` names the transaction
 * that wrote. `inbox` holds the committed signals as bits; what a transaction adds or uses up is published by its
 * commit. Each atomic block is one SQL statement.
 */
#ifndef FAULTS
#define FAULTS 2      /* rolled back transactions, lost workers */
#endif
#ifndef DEADLINES
#define DEADLINES 1   /* awaits that have a deadline; all others wait for ever */
#endif
#ifndef EARLY
#define EARLY 1       /* leases that run out although their worker lives */
#endif

#define RUN 0
#define EXE 1
#define AWT 2
#define END 3

#define NONE 0        /* a lease or a deadline: none, */
#define LIVE 1        /* in the future, */
#define PAST 2        /* over */

/* the signals: 0 and 2 are called a, 1 is called b */
#define A 5
#define B 2
#define ALL 7
/* what phase p of the instance needs: phase 1 an a, phase 2 a b, phase 3 an a; phase 0 begins, phase 4 is the end */
#define named(p) (p == 2 -> B : (p == 1 || p == 3 -> A : 0))
#define lowest(m) ((m & 1) -> 1 : ((m & 2) -> 2 : (m & 4)))

byte lock = 0;
byte w_st = RUN, w_no = 0, w_lease = NONE, w_phase = 0, w_shown = 0, w_line = NONE;
byte c_st = RUN, c_no = 0, c_lease = NONE, c_phase = 0, c_shown = 0, c_line = NONE;
bit c_awaits = 0, w_awaits = 0;   /* awaits is not null: it is the name that the phase needs */
byte inbox = 0;
byte used = 0;                    /* ghost: signals that a committed outcome has used up */
byte faults = FAULTS, deadlines = DEADLINES, early = EARLY;
byte held[3];                     /* ghost: the claim that each worker believes to hold */

inline publish() {
    c_st = w_st; c_no = w_no; c_lease = w_lease; c_phase = w_phase; c_shown = w_shown; c_line = w_line;
    c_awaits = w_awaits; lock = 0
}
inline undo() {
    w_st = c_st; w_no = c_no; w_lease = c_lease; w_phase = c_phase; w_shown = c_shown; w_line = c_line;
    w_awaits = c_awaits; lock = 0
}
inline forget() { held[me] = 0; seen = 0; saw = 0; uses = 0; answered = 0; late = 0 }

proctype Worker(byte me)
{
    byte seen = 0;          /* the inbox as the claim presented it */
    byte uses = 0;          /* what the outcome consumes */
    byte saw = 0;           /* the await's look into the inbox */
    bit late = 0;           /* timed_out */
    bit answered = 0, busy = 0;

idle:
    if
    :: atomic {                                 /* _pick_due */
        lock == 0 && (c_st == RUN || (c_st == EXE && c_lease == PAST) || (c_st == AWT && c_line == PAST)) ->
        lock = me
       }
    :: c_st == END -> goto over
    fi;
    atomic {                                    /* _hand_out: one update, its subqueries read one snapshot */
        w_st = EXE; w_no = w_no + 1; w_lease = LIVE; seen = inbox;
        if
        :: w_awaits && (inbox & named(w_phase) & ~w_shown) -> w_line = NONE
        :: else -> skip
        fi;
        late = (w_line == PAST);
        if
#ifdef BUG_SHOWN_IS_ALL
        :: w_shown = inbox
#else
        :: w_awaits -> w_shown = inbox & named(w_phase)
        :: else -> w_shown = 0
#endif
        fi
    };
    if
    :: atomic {
        assert(!w_awaits || (seen & named(w_phase)) || late);       /* awake for a reason */
        held[me] = w_no; publish()
       }
    :: atomic { faults > 0 -> faults--; forget(); undo(); goto idle }
    fi;

    /* the step runs */
    if
    :: atomic { faults > 0 -> faults--; forget(); goto idle }
    :: skip
    fi;

commit:
#ifdef BUG_AWAIT_READS_BEFORE_LOCK
    atomic { saw = inbox };
#endif
    atomic {                                    /* _lock_outcomes */
        if
        :: lock == 0 && c_st == EXE && c_no == held[me] -> lock = me; busy = 0
        :: else -> busy = 1
        fi
    };
    if
    :: busy ->
        atomic {
            busy = 0;
            if
            :: c_st == EXE && c_no == held[me] -> saw = 0; goto commit
            :: else -> forget(); goto idle
            fi
        }
    :: else -> skip
    fi;
    atomic {                                    /* what the step decided; the phase is safe to read: the row is ours */
        if
        :: w_phase == 0 -> answered = 1
        :: w_phase > 0 && (seen & named(w_phase)) -> answered = 1; uses = lowest((seen & named(w_phase)))
        :: w_phase > 0 && !(seen & named(w_phase)) -> answered = 0          /* timed out: the same await again */
        :: w_phase > 0 && (seen & named(w_phase)) && deadlines > 0 -> answered = 0    /* or it looks away for now */
        fi
    };
    atomic {                                    /* _resolve_outcomes: consume, then the await looks into the inbox */
#ifndef BUG_AWAIT_READS_BEFORE_LOCK
        saw = inbox;
#endif
        saw = saw & ~uses
    };
    atomic {                                    /* _apply_outcomes: the update */
        if
        :: answered -> w_phase++
        :: else -> skip
        fi;
        w_lease = NONE; w_line = NONE;
        if
        :: w_phase == 4 -> w_st = END; w_awaits = 0; w_shown = 0
        :: w_phase < 4 && (saw & named(w_phase) & ~w_shown) -> w_st = RUN; w_awaits = 1
        :: w_phase < 4 && !(saw & named(w_phase) & ~w_shown) -> w_st = AWT; w_awaits = 1;
            if
            :: deadlines > 0 -> deadlines--; w_line = LIVE
            :: !(seen & named(w_phase) & w_shown) -> skip      /* what it looked away from needs the deadline */
            fi
        fi
    };
    if
    :: atomic {
        assert((used & uses) == 0);             /* a signal is consumed once, */
        assert(w_st != END || (used | uses) == ALL);        /* and none is lost */
        used = used | uses;
#ifdef BUG_CONSUME_ALL
        if :: uses -> inbox = 0 :: else -> skip fi;
#endif
#ifndef BUG_NO_CONSUME
        inbox = inbox & ~uses;
#endif
        forget(); publish(); goto idle
       }
    :: atomic { faults > 0 -> faults--; saw = 0; uses = 0; answered = 0; undo(); goto commit }
    fi;
over:
    skip
}

proctype Sender(byte me; byte bits)
{
    bit wakes = 0;
send:
#ifdef BUG_SIGNAL_LOOKS_WITHOUT_LOCK
    atomic {                                    /* an update whose condition no row meets takes no lock */
        wakes = (c_st == AWT && (bits & named(c_phase)));
        if :: wakes && lock != 0 -> goto send :: wakes && lock == 0 -> lock = me :: else -> skip fi
    };
#else
    atomic { lock == 0 -> lock = me;            /* _deliver_signal: for no key update, waiting */
        wakes = (w_st == AWT && (bits & named(w_phase))) };
#endif
    /* the insert of the signal: nobody sees it before the commit */
    atomic {                                    /* the update that wakes */
        if
#ifndef BUG_SIGNAL_NEVER_WAKES
        :: wakes -> w_st = RUN; w_line = NONE
#endif
        :: else -> skip
        fi
    };
    if
    :: atomic { inbox = inbox | bits; if :: lock == me -> publish() :: else -> skip fi }
    :: atomic { faults > 0 -> faults--; wakes = 0; if :: lock == me -> undo() :: else -> skip fi; goto send }
    fi
}

#define abandoned(n) (held[1] != n && held[2] != n)

proctype Clock()
{
    do
    :: atomic {
        lock == 0 && c_st == EXE && c_lease == LIVE && (abandoned(c_no) || early > 0) ->
        if :: abandoned(c_no) -> skip :: else -> early-- fi;
        c_lease = PAST; w_lease = PAST
       }
    :: atomic { lock == 0 && c_st == AWT && c_line == LIVE -> c_line = PAST; w_line = PAST }
    :: c_st == END -> break
    od
}

init {
    atomic {
        run Worker(1); run Worker(2); run Sender(3, 1); run Sender(4, 2); run Sender(5, 4); run Clock()
    }
}

ltl ends { <> (c_st == END) }

/* One partition key: slots, the lane and the baton. Three rows in two queues, two workers that serve both,
 * and a scenario of others: a client that holds a row in an open transaction (HOLDS),
 * cancels (CANCELS), reschedules (MOVES), a queue paused or resumed (PAUSES, RESUMES), lost workers (FAULTS).
 * README.md says which SQL statement each step stands for.
 *
 * Row versions: w_* is the newest version, c_* the committed one; they differ only where `lock` names the transaction
 * that wrote, and S(…) is what the process reads. `key` is the key's advisory lock, held to the end of a transaction.
 * Each atomic block is one SQL statement.
 */
#ifndef K
#define K 1           /* how many may execute at once */
#endif
#ifndef FAULTS
#define FAULTS 0
#endif
#ifndef EXTRA
#define EXTRA 1       /* outcomes other than done: next, next with a delay, await */
#endif
#ifndef CRASH_CAP
#define CRASH_CAP 2
#endif
#ifndef HOLDS
#define HOLDS 0
#endif
#ifndef CANCELS
#define CANCELS 0
#endif
#ifndef MOVES
#define MOVES 0
#endif
#ifndef PAUSES
#define PAUSES 0
#endif
#ifndef RESUMES
#define RESUMES 0
#endif
#ifndef QUEUE0
#define QUEUE0 3      /* the rows in queue 0, as bits: the queue that is paused or resumed */
#endif
#define ROWS 3

#define RUN 0
#define EXE 1
#define AWT 2         /* awaiting_signal, without a deadline */
#define END 3

/* eligible_at */
#define NUL 0
#define NOW 1         /* due */
#define OWN 2         /* in the future, the same time as lane_at */
#define TRY 3         /* in 100 ms: carries the baton */

/* lane_at: NUL, NOW (over) or OWN (in the future); `pl` orders the places */

byte lock[ROWS], key = 0;
byte deciding = 0;                /* a place of lock 7305: who pauses or resumes */
byte doubt = 0;                   /* the key in doubtful_key: 2, or 1 where a transaction has deleted it and not ended */
byte w_st[ROWS], c_st[ROWS];
byte w_el[ROWS], c_el[ROWS];
byte w_la[ROWS], c_la[ROWS];
byte w_pl[ROWS], c_pl[ROWS];
byte w_sl[ROWS], c_sl[ROWS];      /* slot_no, 0 for null */
byte w_no[ROWS], c_no[ROWS];      /* claim_no */
byte w_cr[ROWS], c_cr[ROWS];      /* crashes */
bit past[ROWS];                   /* the lease has run out */
bit paused[2];                    /* committed */
byte places = ROWS;
byte extra = EXTRA, faults = FAULTS;
byte others = 0;                  /* processes of the scenario that have not ended */
byte held[6];                     /* bit r: worker w believes to hold row r */

#define queue(r) (!((QUEUE0 >> (r)) & 1))
#define S(f, r) (lock[r] == me -> w_##f[r] : c_##f[r])
#define bit_of(r) (1 << (r))

/* Waiting for a slot: _find_next_in_keys, _find_heads, _find_crowded */
#ifdef BUG_BATON_LOSES_ITS_TURN
#define waits(r) (S(la, r) == NOW && S(sl, r) == 0 && (S(el, r) == NUL || S(el, r) == NOW) && !sees_paused(r))
#else
#define waits(r) (S(la, r) == NOW && S(sl, r) == 0 && !sees_paused(r))
#endif
/* _find_waiting: in a queue that is paused, too */
#define in_line(r) (S(la, r) == NOW && S(sl, r) == 0)
#define is_parked(r) (S(la, r) != NUL && S(sl, r) == 0 && S(el, r) == NUL)
#if defined(BUG_SETTLES_AFTER_READING) || defined(BUG_NEVER_SETTLES)
#define may_settle true
#else
#define may_settle may_park
#endif
/* what a transaction sees of the pauses: its own, else the committed ones */
#define sees_paused(r) (my_pause == 2 -> paused[queue(r)] : (queue(r) == 0 -> my_pause : paused[1]))

#define over(r) (c_st[r] == END || (paused[queue(r)] && c_st[r] != EXE))
#define finished (others == 0 && over(0) && over(1) && over(2))

inline publish() {
    d_step {
        i = 0; n = 0;
        do
        :: i < ROWS ->
            if
            :: lock[i] == me ->
                if :: w_no[i] != c_no[i] || w_st[i] != EXE -> past[i] = 0 :: else -> skip fi;
                c_st[i] = w_st[i]; c_el[i] = w_el[i]; c_la[i] = w_la[i]; c_pl[i] = w_pl[i]; c_sl[i] = w_sl[i];
                c_no[i] = w_no[i]; c_cr[i] = w_cr[i]; lock[i] = 0
            :: else -> skip
            fi;
            if :: c_st[i] == EXE -> n++ :: else -> skip fi;
            i++
        :: else -> break
        od;
        assert(n <= K);                                     /* at most K executing */
        if :: key == me -> key = 0 :: else -> skip fi;
        if :: deciding == me -> deciding = 0 :: else -> skip fi;
        if :: doubt == 1 && cleared -> doubt = 0 :: else -> skip fi;
        if :: new_doubt -> doubt = 2 :: else -> skip fi;
        new_doubt = 0; cleared = 0; i = 0; n = 0
    }
}
inline undo() {
    d_step {
        i = 0;
        do
        :: i < ROWS ->
            if
            :: lock[i] == me ->
                w_st[i] = c_st[i]; w_el[i] = c_el[i]; w_la[i] = c_la[i]; w_pl[i] = c_pl[i]; w_sl[i] = c_sl[i];
                w_no[i] = c_no[i]; w_cr[i] = c_cr[i]; lock[i] = 0
            :: else -> skip
            fi;
            i++
        :: else -> break
        od;
        if :: key == me -> key = 0 :: else -> skip fi;
        if :: deciding == me -> deciding = 0 :: else -> skip fi;
        if :: doubt == 1 && cleared -> doubt = 2 :: else -> skip fi;
        new_doubt = 0; cleared = 0; i = 0
    }
}

/* The first `most` waiting rows, as bits in `next`; first = the very first + 1 */
inline first_waiting(most) {
    next = 0; n = 0;
    do
    :: n < most ->
        first = ROWS; i = 0;
        do
        :: i < ROWS ->
            if
            :: waits(i) && !(next & bit_of(i)) && (first == ROWS || S(pl, i) < S(pl, first)) -> first = i
            :: else -> skip
            fi;
            i++
        :: else -> break
        od;
        if
        :: first < ROWS -> next = next | bit_of(first); n++
        :: else -> break
        fi
    :: else -> break
    od;
    first = 0; n = 0; i = 0
}

/* _find_next_in_keys: as many as there are free slots */
inline next_in_key() {
    used = 0; i = 0;
    do
    :: i < ROWS -> if :: S(sl, i) != 0 -> used++ :: else -> skip fi; i++
    :: else -> break
    od;
    if
    :: used < K -> first_waiting((K - used))
    :: else -> next = 0; i = 0
    fi;
    used = 0
}

/* Order in the key: a row may start only if fewer rows that wait stand before it than slots are free */
inline in_order() {
    r = 0;
    do
    :: r < ROWS ->
        if
        :: (picked & bit_of(r)) && w_sl[r] == 0 && (next & bit_of(r)) ->
            n = 0; i = 0;
            do
            :: i < ROWS ->
                if
                :: S(sl, i) != 0 -> n++
                :: S(sl, i) == 0 && S(la, i) == NOW && !sees_paused(i) && S(pl, i) < w_pl[r] -> n++
                :: else -> skip
                fi;
                i++
            :: else -> break
            od;
            assert(n < K)
        :: else -> skip
        fi;
        r++
    :: else -> break
    od;
    r = 0; n = 0; i = 0
}

/* _lift_rows: what can be locked of `next` becomes due; the rest stays in `next` */
inline lift() {
    i = 0;
    do
    :: i < ROWS ->
        if
        :: (next & bit_of(i)) && (lock[i] == 0 || lock[i] == me) ->
            lock[i] = me; w_el[i] = NOW; next = next & ~bit_of(i)
        :: else -> skip
        fi;
        i++
    :: else -> break
    od;
    i = 0
}

/* _is_settled: only tried */
inline settle() {
    settled = (deciding == 0 || deciding == me)
}

/* _keep_batons where it is not settled: the first parked row of each queue becomes due, if it can be locked. The key is
 * put down as doubtful. */
inline lift_any() {
    n = 0;
    do
    :: n < 2 ->
        first = ROWS; i = 0;
        do
        :: i < ROWS ->
            if
            :: queue(i) == n && is_parked(i) && (first == ROWS || S(pl, i) < S(pl, first)) -> first = i
            :: else -> skip
            fi;
            i++
        :: else -> break
        od;
        if
        :: first < ROWS && (lock[first] == 0 || lock[first] == me) -> lock[first] = me; w_el[first] = NOW
        :: else -> skip
        fi;
        n++
    :: else -> break
    od;
    first = 0; n = 0; i = 0;
#ifndef BUG_UNSETTLED_WITHOUT_DOUBT
    new_doubt = 1
#endif
}

/* _pass_batons: `dropped` where every waiting row is parked and locked by somebody */
inline pass_baton() {
    dropped = 0;
#ifndef BUG_DROP_BATON
    d_step { next_in_key() };
    if
    :: next != 0 ->
        d_step { lift() };
        if
        :: next != 0 ->
#ifdef BUG_LOCKED_HEAD_IS_SKIPPED
            next = 0
#else
            d_step {                            /* _find_heads: the first that is due, or can be lifted */
                first_waiting(ROWS);
                dropped = (next != 0);
                i = 0;
                do
                :: i < ROWS && dropped ->
                    if
                    :: (next & bit_of(i)) && S(el, i) != NUL -> dropped = 0
                    :: else -> skip
                    fi;
                    i++
                :: else -> break
                od;
                i = 0
            };
            if
            :: dropped ->
                d_step {
                    do
                    :: i < ROWS && dropped ->
                        if
                        :: (next & bit_of(i)) && (lock[i] == 0 || lock[i] == me) ->
                            lock[i] = me; w_el[i] = NOW; dropped = 0
                        :: else -> skip
                        fi;
                        i++
                    :: else -> break
                    od;
                    i = 0
                }
            :: else -> skip
            fi;
            next = 0
#endif
        :: else -> skip
        fi
    :: else -> skip
    fi
#endif
}

/* _keep_batons: a doubt where not even row r, written just now, can carry it */
inline keep_baton(r) {
#ifndef BUG_NEVER_SETTLES
    d_step { settle(); if :: !settled -> lift_any() :: else -> skip fi; settled = 0 };
#endif
    pass_baton();
    if
    :: dropped ->
        d_step {
            dropped = 0;
            if
#ifdef BUG_CARRIER_IN_A_PAUSED_QUEUE
            :: w_st[r] != EXE -> w_el[r] = TRY
#else
            :: w_st[r] != EXE && !sees_paused(r) -> w_el[r] = TRY
#endif
#ifdef BUG_NO_CARRIER_NO_DOUBT
            :: else -> skip
#else
            :: else -> new_doubt = 1
#endif
            fi
        }
    :: else -> skip
    fi
}

proctype Worker(byte me)
{
    byte r = 0, i = 0, n = 0, used = 0, next = 0, first = 0;
    byte picked = 0, starts = 0, look = 0;
    byte no[ROWS];                  /* the claims that it remembers */
    bit dropped = 0, settled = 0, crowded = 0, waiting = 0, may_park = 0, new_doubt = 0, cleared = 0;
    bit stop0 = 0, stop1 = 0;       /* the queues that it found paused */
    byte my_pause = 2;

#define due(r) (lock[r] == 0 && c_el[r] == NOW && (c_st[r] != EXE || past[r]) && !(queue(r) -> stop1 : stop0))

idle:
    if
    :: held[me] == 0 -> atomic { stop0 = paused[0]; stop1 = paused[1] }
    :: held[me] != 0 -> goto commit
    fi;
    if                                          /* _settle_doubts */
    :: atomic { doubt == 2 && deciding == 0 && key == 0 -> key = me };
        d_step { first_waiting(K) };
        d_step {
            lift();
#ifdef BUG_DOUBT_ENDS_BEHIND_A_LOCKED_HEAD
            next = 0;
#endif
            if :: next == 0 && doubt == 2 -> doubt = 1; cleared = 1 :: else -> skip fi;
            next = 0
        }
    :: true -> skip
    fi;
    if
    :: atomic {                                 /* _pick_due: any of the due rows; order between keys is not the matter */
        due(0) || due(1) || due(2) ->
        if :: due(0) -> lock[0] = me; picked = 1 :: true -> skip fi;
        if :: due(1) -> lock[1] = me; picked = picked | 2 :: true -> skip fi;
        if :: due(2) -> lock[2] = me; picked = picked | 4 :: true -> skip fi;
        if :: picked == 0 -> publish(); goto idle :: else -> skip fi
       }
    :: atomic { finished -> publish(); goto over }
    :: atomic { paused[0] != stop0 || paused[1] != stop1 || key == me || (doubt == 2 && deciding == 0 && key == 0) ->
        publish(); goto idle }
    fi;
    stop0 = 0; stop1 = 0;
#ifndef BUG_NO_KEY_LOCK
    atomic {                                    /* _try_keys */
        if
        :: key == 0 || key == me -> key = me
        :: else -> picked = 0; undo(); goto idle
        fi
    };
#endif
#ifndef BUG_SETTLES_AFTER_READING
    d_step { settle() };
    may_park = settled; settled = 0;
#endif
#ifdef BUG_CHORES_AFTER_HEADS
    d_step { next_in_key(); look = next; next = 0 };
#endif
    /* _do_chores: rows at the crash cap. While it is not settled, chores stay due as they are. */
    r = 0;
    do
    :: r < ROWS ->
        if
        :: (picked & bit_of(r)) && w_st[r] == EXE && w_cr[r] + 1 >= CRASH_CAP ->
            picked = picked & ~bit_of(r);
            if
            :: may_settle ->
                d_step { w_st[r] = END; w_el[r] = NUL; w_la[r] = NUL; w_sl[r] = 0 };
                keep_baton(r)
            :: else -> skip
            fi
        :: else -> skip
        fi;
        r++
    :: else -> break
    od;
    /* _do_chores: rows that carry the baton without a place in the key */
    r = 0;
    do
    :: r < ROWS ->
        if
        :: (picked & bit_of(r)) && w_st[r] != EXE && w_la[r] != NOW ->
            picked = picked & ~bit_of(r);
            if
            :: may_settle -> pass_baton();
                d_step { w_el[r] = (dropped -> TRY : w_la[r]); dropped = 0 }
            :: else -> skip
            fi
        :: else -> skip
        fi;
        r++
    :: else -> break
    od;
    r = 0;
    /* _admit_to_keys: who is next */
#ifdef BUG_CHORES_AFTER_HEADS
    d_step { next = look; look = 0 };
#else
    d_step { next_in_key(); in_order() };
#endif
    d_step {
        r = 0;
        do
        :: r < ROWS ->
            if
            :: (picked & bit_of(r)) && (w_sl[r] != 0 || (next & bit_of(r))) -> starts = starts | bit_of(r)
            :: else -> skip
            fi;
            r++
        :: else -> break
        od;
        r = 0;
        picked = picked & ~starts;              /* from here: those that wait */
        next = next & ~starts                   /* and the strangers */
    };
    if
    :: picked != 0 ->
#ifdef BUG_SETTLES_AFTER_READING
        d_step { settle(); may_park = settled; settled = 0 };
#endif
#ifdef BUG_NEVER_SETTLES
        may_park = 1;
#endif
        d_step { lift() };
        d_step {                                /* the update that parks */
#ifdef BUG_PARK_BEHIND_A_LOCKED_HEAD
            next = 0;
#endif
            n = ROWS; r = 0;
            do
            :: r < ROWS ->
                if
                :: (picked & bit_of(r)) ->
                    w_el[r] = (may_park -> NUL : TRY);
                    if :: n == ROWS || w_pl[r] < w_pl[n] -> n = r :: else -> skip fi
                :: else -> skip
                fi;
                r++
            :: else -> break
            od;
            if :: next != 0 -> w_el[n] = TRY :: else -> skip fi;
            r = 0; n = 0
        }
    :: else -> skip
    fi;
    d_step { next = 0; picked = 0; may_park = 0 };
    if
    :: d_step {                                 /* _hand_out */
        r = 0;
        do
        :: r < ROWS ->
            if
            :: (starts & bit_of(r)) ->
                if
                :: w_st[r] == EXE -> w_cr[r] = w_cr[r] + 1
                :: else ->
                    n = 1;                      /* the first free slot */
                    do
                    :: (S(sl, 0) == n || S(sl, 1) == n || S(sl, 2) == n) -> n++
                    :: else -> break
                    od;
                    w_sl[r] = n; n = 0
                fi;
                w_st[r] = EXE; w_no[r] = w_no[r] + 1
            :: else -> skip
            fi;
            r++
        :: else -> break
        od;
        r = 0
       }
    :: starts != 0 && picked == 0 -> starts = 0         /* enough for one claim: it stays due */
    fi;
    if
    :: atomic {
        d_step {
            r = 0;
            do
            :: r < ROWS -> if :: (starts & bit_of(r)) -> no[r] = w_no[r] :: else -> skip fi; r++
            :: else -> break
            od;
            r = 0; held[me] = starts; starts = 0
        };
        publish(); goto idle
       }
    :: atomic { faults > 0 -> faults--; starts = 0; undo(); goto idle }
    :: atomic { faults > 0 && starts != 0 -> faults--; starts = 0; publish(); goto idle }     /* the worker is lost */
    fi;

commit:
    atomic {                                    /* _lock_outcomes, for one of its claims */
        if :: (held[me] & 1) -> r = 0 :: (held[me] & 2) -> r = 1 :: (held[me] & 4) -> r = 2 fi;
        if
        :: c_st[r] != EXE || c_no[r] != no[r] -> held[me] = held[me] & ~bit_of(r); no[r] = 0; r = 0; goto idle
        :: else -> lock[r] == 0 -> lock[r] = me
        fi
    };
    if
    :: c_st[r] != EXE || c_no[r] != no[r] -> atomic { undo(); r = 0; goto idle }
    :: else -> skip
    fi;
#ifndef BUG_NO_KEY_LOCK
    atomic { key == 0 -> key = me };            /* _try_keys, again and again until the key is free */
#endif
    d_step { settle() };
    d_step {                                    /* _find_waiting, _find_crowded */
        waiting = in_line(0) || in_line(1) || in_line(2) || !settled;
        crowded = (waits(0) || waits(1) || waits(2)) && settled;
        settled = 0
    };
    atomic {                                    /* _apply_outcomes: the update */
        if
        :: w_st[r] = END; w_el[r] = NUL; w_la[r] = NUL
        :: extra > 0 -> extra--; w_st[r] = RUN; w_la[r] = NOW; w_pl[r] = places; places++;
            w_el[r] = (crowded -> NUL : NOW)
        :: extra > 0 -> extra--; w_st[r] = RUN; w_la[r] = OWN; w_el[r] = OWN
        :: extra > 0 -> extra--; w_st[r] = AWT; w_la[r] = NUL; w_el[r] = NUL
        fi;
        w_sl[r] = 0; w_cr[r] = 0; crowded = 0
    };
    if
    :: waiting -> waiting = 0; keep_baton(r)
    :: else -> skip
    fi;
    atomic { held[me] = held[me] & ~bit_of(r); no[r] = 0; r = 0; publish(); goto idle };
over:
    skip
}

/* gd_signal answers each await; and somebody's open transaction holds a row, whatever it is about */
proctype Client(byte me)
{
    byte r = 0, i = 0, n = 0, holds = HOLDS;
    bit new_doubt = 0, cleared = 0;
    do
    :: atomic { holds > 0 -> holds--;
        if
        :: lock[0] == 0 -> r = 0
        :: lock[1] == 0 -> r = 1
        :: lock[2] == 0 -> r = 2
        fi;
        lock[r] = me };
        atomic { r = 0; undo() }
    :: atomic { holds > 0 -> holds = 0 }
    :: atomic {
        if
        :: c_st[0] == AWT && lock[0] == 0 -> r = 0
        :: c_st[1] == AWT && lock[1] == 0 -> r = 1
        :: c_st[2] == AWT && lock[2] == 0 -> r = 2
        fi;
        lock[r] = me };
        atomic { w_st[r] = RUN; w_el[r] = NOW; w_la[r] = NOW; w_pl[r] = places; places++; r = 0; publish() }
    :: finished && holds == 0 -> break
    od
}

/* gd_cancel and gd_reschedule: they wait for the row, then for the key */
proctype Operator(byte me; bit moves)
{
    byte r = 0, i = 0, n = 0, used = 0, next = 0, first = 0;
    bit dropped = 0, settled = 0, new_doubt = 0, cleared = 0;
    byte my_pause = 2;

    if :: r = 0 :: r = 1 :: r = 2 :: goto over fi;
    atomic { lock[r] == 0 -> lock[r] = me };
    if
    :: w_st[r] == END || (moves && w_st[r] == EXE) -> atomic { undo(); goto over }
    :: else -> skip
    fi;
    atomic { key == 0 -> key = me };
    d_step {
        w_sl[r] = 0;
        if
        :: moves -> w_la[r] = OWN; w_el[r] = OWN
        :: else -> w_st[r] = END; w_el[r] = NUL; w_la[r] = NUL
        fi
    };
#ifdef BUG_CANCEL_DROPS_BATON
    skip;
#else
    keep_baton(r);
#endif
    publish();
over:
    atomic { r = 0; others-- }
}

/* The list for _carry_out_decision: is the key one of those that a pause or a resume looks at? */
inline is_about() {
    if
    :: !pauses -> about = ((c_el[0] == NUL && c_la[0] != NUL && queue(0) == 0)
        || (c_el[1] == NUL && c_la[1] != NUL && queue(1) == 0)
        || (c_el[2] == NUL && c_la[2] != NUL && queue(2) == 0))
    :: pauses -> about = ((c_el[0] != NUL && c_sl[0] == 0 && queue(0) == 0)
        || (c_el[1] != NUL && c_sl[1] == 0 && queue(1) == 0)
        || (c_el[2] != NUL && c_sl[2] == 0 && queue(2) == 0))
    fi
}

/* gd_pause_queue and gd_resume_queue for queue 0, with _carry_out_decision: they wait for nobody */
proctype Pauser(byte me; bit pauses)
{
    byte r = 0, i = 0, n = 0, next = 0, first = 0;
    byte my_pause = 2;
    bit about = 0, new_doubt = 0, cleared = 0;

#ifndef BUG_NEVER_SETTLES
    atomic { deciding == 0 -> deciding = me };
#endif
    atomic { my_pause = pauses };               /* the insert or the delete: seen by itself alone, until it commits */
#ifdef BUG_DECISION_READS_BEFORE_HOLDERS_END
    d_step { is_about() };
#endif
    if                                          /* _outwait_key_holders: it may see the lock free a little later, or not */
    :: key == 0 -> skip
    :: atomic { key != 0 ->
#ifndef BUG_HOLDERS_OF_THE_KEY_ARE_TRUSTED
        new_doubt = (c_la[0] != NUL || c_la[1] != NUL || c_la[2] != NUL)
#endif
        }
    fi;
#ifndef BUG_DECISION_READS_BEFORE_HOLDERS_END
    d_step { is_about() };
#endif
    if
    :: about -> d_step {                        /* the first rows, those that are parked */
            first_waiting(K);
            do
            :: i < ROWS -> if :: S(el, i) != NUL -> next = next & ~bit_of(i) :: else -> skip fi; i++
            :: else -> break
            od;
            i = 0
        }
    :: else -> goto ready
    fi;
    d_step {                                    /* _lift_rows, without the key's lock: it looks again at what it has locked */
        do
        :: r < ROWS ->
            if
            :: (next & bit_of(r)) && lock[r] == 0 ->
                lock[r] = me; next = next & ~bit_of(r);
                if :: w_la[r] != NUL && w_sl[r] == 0 -> w_el[r] = NOW :: else -> skip fi
            :: else -> skip
            fi;
            r++
        :: else -> break
        od;
#ifndef BUG_DECISION_PASSES_OVER_A_LOCKED_HEAD
        if :: next != 0 -> new_doubt = 1 :: else -> skip fi;
#endif
        r = 0; next = 0; about = 0
    };
ready:
    atomic { paused[0] = pauses; my_pause = 2; publish(); others-- }
}

#define abandoned(r) (!(held[1] & bit_of(r)) && !(held[2] & bit_of(r)))

/* a place in the key is the time at which the row became due */
inline at(r, el, la) {
    c_el[r] = el; w_el[r] = el;
    if :: c_la[r] == OWN && la == NOW -> c_pl[r] = places; w_pl[r] = places; places++ :: else -> skip fi;
    c_la[r] = la; w_la[r] = la
}

proctype Clock()
{
    do
    :: atomic { c_st[0] == EXE && !past[0] && lock[0] == 0 && abandoned(0) -> past[0] = 1 }
    :: atomic { c_st[1] == EXE && !past[1] && lock[1] == 0 && abandoned(1) -> past[1] = 1 }
    :: atomic { c_st[2] == EXE && !past[2] && lock[2] == 0 && abandoned(2) -> past[2] = 1 }
    :: atomic { lock[0] == 0 && c_el[0] == OWN -> at(0, NOW, NOW) }
    :: atomic { lock[0] == 0 && c_el[0] == TRY -> at(0, NOW, c_la[0]) }
    :: atomic { lock[0] == 0 && c_la[0] == OWN && c_el[0] != OWN -> at(0, c_el[0], NOW) }
    :: atomic { lock[1] == 0 && c_el[1] == OWN -> at(1, NOW, NOW) }
    :: atomic { lock[1] == 0 && c_el[1] == TRY -> at(1, NOW, c_la[1]) }
    :: atomic { lock[1] == 0 && c_la[1] == OWN && c_el[1] != OWN -> at(1, c_el[1], NOW) }
    :: atomic { lock[2] == 0 && c_el[2] == OWN -> at(2, NOW, NOW) }
    :: atomic { lock[2] == 0 && c_el[2] == TRY -> at(2, NOW, c_la[2]) }
    :: atomic { lock[2] == 0 && c_la[2] == OWN && c_el[2] != OWN -> at(2, c_el[2], NOW) }
    :: finished -> break
    od
}

init {
    byte r = 0;
    atomic {
        do
        :: r < ROWS ->
            c_pl[r] = r; w_pl[r] = r; c_la[r] = NOW; w_la[r] = NOW;
            if
            :: RESUMES && queue(r) == 0 -> skip             /* parked when the queue was paused */
            :: else -> c_el[r] = NOW; w_el[r] = NOW
            fi;
            r++
        :: else -> break
        od;
        r = 0;
        paused[0] = RESUMES;
        others = CANCELS + MOVES + PAUSES + RESUMES;
        run Worker(1); run Worker(2); run Client(3); run Clock();
        if :: CANCELS -> run Operator(4, 0) :: else -> skip fi;
        if :: MOVES -> run Operator(4, 1) :: else -> skip fi;
        if :: PAUSES || RESUMES -> run Pauser(5, PAUSES) :: else -> skip fi
    }
}
